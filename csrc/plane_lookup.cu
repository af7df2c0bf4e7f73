#include "plane_lookup_cuda.h"

namespace synctalk::cuda {
namespace {

constexpr int kThreads = 256;

__device__ void store(float value, float* to) { *to = value; }
__device__ void store(float value, __half* to) { *to = __float2half_rn(value); }

// One thread for one output. The planes travel as an argument and are read from shared memory: neighbouring threads
// read different ones.
template <class Out>
__global__ void lookup_kernel(NodePlanes argument, const float* __restrict__ positions, int64_t n_outputs,
                              Out* __restrict__ out) {
  __shared__ NodePlanes planes;
  for (int p = threadIdx.x; p < argument.n_planes; p += blockDim.x) {
    planes.nodes[p] = argument.nodes[p];
    planes.scale[p] = argument.scale[p];
    planes.n[p] = argument.n[p];
  }
  if (threadIdx.x == 0) {
    planes.n_planes = argument.n_planes;
    planes.n_channels = argument.n_channels;
  }
  __syncthreads();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n_outputs) return;
  const int width = planes.width();
  store(look_up_one(planes, positions + i / width * 3, static_cast<int>(i % width)), out + i);
}

template <class Out>
cudaError_t launch(const NodePlanes& planes, const float* positions, int64_t n_samples, Out* out, cudaStream_t stream) {
  const int64_t n_outputs = n_samples * planes.width();
  if (n_outputs == 0) return cudaSuccess;
  const auto n_blocks = static_cast<unsigned>((n_outputs + kThreads - 1) / kThreads);
  lookup_kernel<<<n_blocks, kThreads, 0, stream>>>(planes, positions, n_outputs, out);
  return cudaGetLastError();
}

}  // namespace

cudaError_t plane_lookup(const NodePlanes& planes, const float* positions, int64_t n_samples, float* out,
                         cudaStream_t stream) {
  return launch(planes, positions, n_samples, out, stream);
}

cudaError_t plane_lookup(const NodePlanes& planes, const float* positions, int64_t n_samples, __half* out,
                         cudaStream_t stream) {
  return launch(planes, positions, n_samples, out, stream);
}

}  // namespace synctalk::cuda
