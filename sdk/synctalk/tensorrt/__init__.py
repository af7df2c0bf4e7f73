"""Engines of NVIDIA TensorRT 10 and 11: building, caching and running them. Nothing here is imported unless asked for."""
