#include <stdexcept>
#include <string>

#include "kernels_cuda.h"

namespace synctalk::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;

// Levels travel as a kernel argument and are read from shared memory: neighbouring threads read different ones.
struct LevelTable {
  Level level[kMaxLevels];
};

LevelTable table_of(const Grid& grid) {
  LevelTable table{};
  for (int l = 0; l < grid.n_levels; ++l) table.level[l] = grid.levels[l];
  return table;
}

__device__ Grid with_shared_levels(Grid grid, const LevelTable& table, Level* shared) {
  for (int l = threadIdx.x; l < grid.n_levels; l += blockDim.x) shared[l] = table.level[l];
  __syncthreads();
  grid.levels = shared;
  return grid;
}

__device__ int64_t thread_index() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

// One thread for one output: what a warp writes is contiguous.
__global__ void encode_kernel(Grid grid, LevelTable table, const float* __restrict__ tables,
                              const float* __restrict__ positions, int64_t n_outputs, float* __restrict__ out) {
  __shared__ Level levels[kMaxLevels];
  grid = with_shared_levels(grid, table, levels);
  const int64_t i = thread_index();
  if (i >= n_outputs) return;
  const int column = static_cast<int>(i % grid.width());
  const int c = column % grid.n_channels, l = column / grid.n_channels % grid.n_levels;
  const int plane = column / grid.n_channels / grid.n_levels;
  out[i] = encode_one(grid, tables, positions + i / grid.width() * 3, plane, l, c);
}

__global__ void backward_tables_kernel(Grid grid, LevelTable table, const float* __restrict__ positions,
                                       const float* __restrict__ d_out, int64_t n_outputs, float* d_tables) {
  __shared__ Level levels[kMaxLevels];
  grid = with_shared_levels(grid, table, levels);
  const int64_t i = thread_index();
  if (i >= n_outputs) return;
  const int column = static_cast<int>(i % grid.width());
  const int c = column % grid.n_channels, l = column / grid.n_channels % grid.n_levels;
  const int plane = column / grid.n_channels / grid.n_levels;
  const float* position = positions + i / grid.width() * 3;
  const Level& level = grid.levels[l];
  const Cell cell = locate(level, position[column_axis(plane)], position[row_axis(plane)]);
  float* d_table = d_tables + (plane * grid.n_entries + level.offset) * grid.n_channels + c;
  for (int corner = 0; corner < 4; ++corner) {
    atomicAdd(d_table + cell.index[corner] * grid.n_channels, cell.weight(corner) * d_out[i]);
  }
}

__global__ void backward_positions_kernel(Grid grid, LevelTable table, const float* __restrict__ tables,
                                          const float* __restrict__ positions, const float* __restrict__ d_out,
                                          int64_t n_samples, float* __restrict__ d_positions) {
  __shared__ Level levels[kMaxLevels];
  grid = with_shared_levels(grid, table, levels);
  const int64_t i = thread_index();
  if (i >= n_samples) return;
  position_gradient(grid, tables, positions + 3 * i, d_out + i * grid.width(), d_positions + 3 * i);
}

__global__ void march_kernel(March march, const float* __restrict__ origins, const float* __restrict__ directions,
                             const float* __restrict__ jitter, int64_t n_rays, float* __restrict__ slots,
                             int32_t* __restrict__ counts) {
  const int64_t r = thread_index();
  if (r >= n_rays) return;
  float* slot = slots + r * march.max_samples;
  counts[r] = march_ray(march, origins + 3 * r, directions + 3 * r, jitter[r],
                        [slot](int j, float distance) { slot[j] = distance; });
}

__global__ void march_gather_kernel(March march, const float* __restrict__ origins,
                                    const float* __restrict__ directions, const float* __restrict__ slots,
                                    const int32_t* __restrict__ offsets, int64_t n_slots, float* __restrict__ positions,
                                    float* __restrict__ distances, int32_t* __restrict__ rays) {
  const int64_t slot = thread_index();
  if (slot >= n_slots) return;
  const int64_t r = slot / march.max_samples;
  const int64_t i = offsets[r] + slot % march.max_samples;
  if (i >= offsets[r + 1]) return;
  unit_position(march, origins + 3 * r, directions + 3 * r, slots[slot], positions + 3 * i);
  distances[i] = slots[slot];
  rays[i] = static_cast<int32_t>(r);
}

__global__ void weigh_kernel(Samples samples, int64_t n_rays, float* alpha, float* weight) {
  const int64_t r = thread_index();
  if (r < n_rays) alpha[r] = weigh_ray(samples, r, weight);
}

__global__ void accumulate_kernel(Samples samples, int64_t n_rays, const float* __restrict__ weight,
                                  float* __restrict__ out) {
  const int64_t at = thread_index();
  if (at >= n_rays * samples.n_features) return;
  const int64_t r = at / samples.n_features, f = at % samples.n_features;
  float sum = 0.0f;
  for (int32_t i = samples.offsets[r]; i < samples.offsets[r + 1]; ++i) {
    sum += weight[i] * samples.feature[static_cast<int64_t>(i) * samples.n_features + f];
  }
  out[at] = sum;
}

// One warp for one ray: lanes share the features, the first lane goes along the ray.
__global__ void composite_backward_kernel(Samples samples, CompositeGradient gradient, int64_t n_rays) {
  const int64_t r = thread_index() / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (r >= n_rays) return;
  const float* d_out = gradient.d_out + r * samples.n_features;
  for (int32_t i = samples.offsets[r]; i < samples.offsets[r + 1]; ++i) {
    const int64_t row = static_cast<int64_t>(i) * samples.n_features;
    float d = 0.0f;
    for (int f = lane; f < samples.n_features; f += kWarp) {
      d += d_out[f] * samples.feature[row + f];
      gradient.d_feature[row + f] = gradient.weight[i] * d_out[f];
    }
    for (int half = kWarp / 2; half > 0; half /= 2) d += __shfl_down_sync(0xffffffffu, d, half);
    if (lane == 0) {
      gradient.d_density[i] = d + gradient.d_alpha[r] + (gradient.d_weight ? gradient.d_weight[i] : 0.0f);
    }
  }
  if (lane == 0) density_gradient(samples, r, gradient.weight, gradient.d_density);
}

// Blocks for n threads; none for n = 0, when nothing must be launched.
unsigned blocks(int64_t n) { return static_cast<unsigned>((n + kThreads - 1) / kThreads); }

void check_launch(const char* what) { check(cudaGetLastError(), what); }

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": CUDA error " + std::to_string(static_cast<int>(status)) + ", " +
                           cudaGetErrorString(status));
}

int devices() {
  int n = 0;
  const cudaError_t status = cudaGetDeviceCount(&n);
  if (status == cudaSuccess) return n;
  (void)cudaGetLastError();  // no driver or no device: not an error of the next call
  return 0;
}

void grid_encode(const Grid& grid, const float* tables, const float* positions, int64_t n_samples, float* out,
                 cudaStream_t stream) {
  const int64_t n = n_samples * grid.width();
  if (n == 0) return;
  encode_kernel<<<blocks(n), kThreads, 0, stream>>>(grid, table_of(grid), tables, positions, n, out);
  check_launch("grid_encode");
}

void grid_encode_backward(const Grid& grid, const float* tables, const float* positions, const float* d_out,
                          int64_t n_samples, float* d_tables, float* d_positions, cudaStream_t stream) {
  const int64_t n = n_samples * grid.width();
  if (n == 0) return;
  backward_tables_kernel<<<blocks(n), kThreads, 0, stream>>>(grid, table_of(grid), positions, d_out, n, d_tables);
  check_launch("grid_encode_backward, tables");
  if (d_positions == nullptr) return;
  backward_positions_kernel<<<blocks(n_samples), kThreads, 0, stream>>>(grid, table_of(grid), tables, positions, d_out,
                                                                        n_samples, d_positions);
  check_launch("grid_encode_backward, positions");
}

void march(const March& march, const float* origins, const float* directions, const float* jitter, int64_t n_rays,
           float* slots, int32_t* counts, cudaStream_t stream) {
  if (n_rays == 0) return;
  march_kernel<<<blocks(n_rays), kThreads, 0, stream>>>(march, origins, directions, jitter, n_rays, slots, counts);
  check_launch("march");
}

void march_gather(const March& march, const float* origins, const float* directions, const float* slots,
                  const int32_t* offsets, int64_t n_rays, float* positions, float* distances, int32_t* rays,
                  cudaStream_t stream) {
  const int64_t n = n_rays * march.max_samples;
  if (n == 0) return;
  march_gather_kernel<<<blocks(n), kThreads, 0, stream>>>(march, origins, directions, slots, offsets, n, positions,
                                                          distances, rays);
  check_launch("march_gather");
}

void composite(const Samples& samples, int64_t n_rays, float* out, float* alpha, float* weight, cudaStream_t stream) {
  if (n_rays == 0) return;
  weigh_kernel<<<blocks(n_rays), kThreads, 0, stream>>>(samples, n_rays, alpha, weight);
  check_launch("composite, weights");
  if (samples.n_features == 0) return;
  accumulate_kernel<<<blocks(n_rays * samples.n_features), kThreads, 0, stream>>>(samples, n_rays, weight, out);
  check_launch("composite, features");
}

void composite_backward(const Samples& samples, int64_t n_rays, const CompositeGradient& gradient,
                        cudaStream_t stream) {
  if (n_rays == 0) return;
  composite_backward_kernel<<<blocks(n_rays * kWarp), kThreads, 0, stream>>>(samples, gradient, n_rays);
  check_launch("composite_backward");
}

}  // namespace synctalk::cuda
