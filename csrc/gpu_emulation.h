// The renderer for GPUs, run on the CPU block by block: slow, for tests of everything but the hardware.
#pragma once

#include "gpu_pack.h"

namespace synctalk::gpu {

class GpuEmulation {
 public:
  // is_half: in half precision, else in float32; is_reversed: the threads of a block run last to first.
  GpuEmulation(const RendererTensors&, bool is_half, bool is_reversed);

  const GpuNet& net() const { return pack_.net; }
  int n_condition() const { return n_condition_; }

  // The frames' pointers are host memory.
  void render(const std::vector<GpuFrame>& frames) const;

 private:
  GpuPack pack_;
  int n_condition_;
  bool is_half_, is_reversed_;
};

}  // namespace synctalk::gpu
