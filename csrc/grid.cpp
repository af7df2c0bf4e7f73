#include "grid.h"

#include "simd.h"
#include "threads.h"

namespace synctalk {

namespace portable {
extern const GridLoops grid_loops;
}
#ifdef SYNCTALK_X86
namespace avx2 {
extern const GridLoops grid_loops;
}
namespace avx512 {
extern const GridLoops grid_loops;
}
#else
namespace avx2 = portable;
namespace avx512 = portable;
#endif

namespace {

constexpr int64_t kGrain = 1024;

const GridLoops& loops() { return by_simd(portable::grid_loops, avx2::grid_loops, avx512::grid_loops); }

}  // namespace

void grid_encode(const Grid& grid, const float* tables, const float* positions, int64_t n_samples, float* out) {
  const GridLoops& path = loops();
  parallel_for(n_samples, kGrain,
               [&](int64_t begin, int64_t end) { path.encode(grid, tables, positions, out, begin, end); });
}

void grid_encode_backward(const Grid& grid, const float* tables, const float* positions, const float* d_out,
                          int64_t n_samples, float* d_tables, float* d_positions) {
  const GridLoops& path = loops();
  // Every entry belongs to one plane-level and every plane-level to one thread: no atomics, and one order of summation.
  const int64_t n_tasks = kPlanes * grid.n_levels;
  const int64_t n_threads = threads();
  parallel_for(n_tasks, (n_tasks + n_threads - 1) / n_threads, [&](int64_t begin, int64_t end) {
    path.backward_tables(grid, positions, d_out, n_samples, d_tables, begin, end);
  });
  if (d_positions == nullptr) return;
  parallel_for(n_samples, kGrain, [&](int64_t begin, int64_t end) {
    path.backward_positions(grid, tables, positions, d_out, d_positions, begin, end);
  });
}

void grid_unroll(const Level& level, const float* table, int n_channels, int64_t n_nodes, float* out) {
  for (int c = 0; c < n_channels; ++c) {
    for (int64_t y = 0; y < n_nodes; ++y) {
      for (int64_t x = 0; x < n_nodes; ++x) {
        const int64_t entry = level.offset + node_index(level, static_cast<uint32_t>(x), static_cast<uint32_t>(y));
        out[(c * n_nodes + y) * n_nodes + x] = table[entry * n_channels + c];
      }
    }
  }
}

}  // namespace synctalk
