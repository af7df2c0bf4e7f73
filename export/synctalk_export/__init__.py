"""From a trained run to a bundle: ONNX files, node planes, plate and track, checked against PyTorch."""
