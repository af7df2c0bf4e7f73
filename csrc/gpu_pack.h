// A renderer's tensors in the layout for GPUs, in host memory.
#pragma once

#include <vector>

#include "bricks.h"
#include "gpu_net.h"
#include "renderer.h"

namespace synctalk::gpu {

struct GpuPack {
  GpuNet net;  // its pointers are into what follows
  std::vector<uint64_t> quads;
  std::vector<uint32_t> words;
  std::vector<float> floats;
  std::vector<uint8_t> occupancy;
  std::vector<Brick> bricks;

  // Throws std::invalid_argument for tensors that the kernels have no room for.
  explicit GpuPack(const RendererTensors&);
  GpuPack(const GpuPack&) = delete;
  GpuPack& operator=(const GpuPack&) = delete;

 private:
  void add_planes(const RendererTensors&);
  GpuMatrix add_matrix(const Matrix&, int first_input, int n_in, int n_before);
};

// Outputs of the widest layer.
int widest_layer(const GpuNet&);

// The head in one frame, checked by the caller.
struct GpuInputs {
  View view;
  const float *condition, *expression, *appearance;
};

GpuFrame frame_of(const GpuNet&, int n_condition, const GpuInputs&, int width, int height);

}  // namespace synctalk::gpu
