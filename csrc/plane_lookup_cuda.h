// The look-up on the GPU: pointers are device memory, work is queued on `stream`.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "plane_lookup.h"

namespace synctalk::cuda {

// positions [M, 3] -> out [M, width]; the result of the launch.
cudaError_t plane_lookup(const NodePlanes&, const float* positions, int64_t n_samples, float* out, cudaStream_t stream);
cudaError_t plane_lookup(const NodePlanes&, const float* positions, int64_t n_samples, __half* out,
                         cudaStream_t stream);

}  // namespace synctalk::cuda
