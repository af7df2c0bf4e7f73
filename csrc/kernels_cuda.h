// The kernels on the GPU: pointers are device memory, work is queued on `stream`, errors throw std::runtime_error.
#pragma once

#include <cuda_runtime.h>

#include "composite.h"
#include "grid.h"
#include "march.h"

namespace synctalk::cuda {

inline constexpr int kMaxLevels = 32;

// Throws std::runtime_error with CUDA's own words unless the call succeeded.
void check(cudaError_t status, const char* what);

// GPUs that this process can use; 0 without a driver.
int devices();

// As synctalk::grid_encode; `grid.levels` is host memory with at most kMaxLevels levels.
void grid_encode(const Grid&, const float* tables, const float* positions, int64_t n_samples, float* out,
                 cudaStream_t stream);

// As synctalk::grid_encode_backward, but d_tables is summed with atomics: in no fixed order.
void grid_encode_backward(const Grid&, const float* tables, const float* positions, const float* d_out,
                          int64_t n_samples, float* d_tables, float* d_positions, cudaStream_t stream);

// Distances of each ray's samples into slots [R, max_samples], and their number into counts [R].
void march(const March&, const float* origins, const float* directions, const float* jitter, int64_t n_rays,
           float* slots, int32_t* counts, cudaStream_t stream);

// From slots to positions, distances and rays [M], given offsets [R + 1].
void march_gather(const March&, const float* origins, const float* directions, const float* slots,
                  const int32_t* offsets, int64_t n_rays, float* positions, float* distances, int32_t* rays,
                  cudaStream_t stream);

void composite(const Samples&, int64_t n_rays, float* out, float* alpha, float* weight, cudaStream_t stream);

void composite_backward(const Samples&, int64_t n_rays, const CompositeGradient&, cudaStream_t stream);

}  // namespace synctalk::cuda
