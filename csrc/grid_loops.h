// The grid's loops over samples, compiled once per instruction set (SYNCTALK_PATH names the namespace).
//
// A block of samples goes through one plane-level at a time: indices and weights first, which the compiler vectorises,
// then the look-ups, which are scalar loads (a wide gather costs as much).
#pragma once

#include "grid.h"

namespace synctalk::SYNCTALK_PATH {
namespace {

constexpr int kBlock = 64;

struct Cells {
  alignas(64) uint32_t index[4][kBlock];
  alignas(64) float weight[4][kBlock];
};

template <bool kHashed>
inline __attribute__((always_inline)) void locate_lanes(const Level& level, const float* u, const float* v, int n,
                                                        Cells& cells) {
  const float scale = level.scale;
  const uint32_t resolution = level.resolution, size = level.size;
#pragma GCC ivdep
  for (int i = 0; i < n; ++i) {
    const float at_u = u[i] * scale + 0.5f, at_v = v[i] * scale + 0.5f;
    const int32_t x = static_cast<int32_t>(at_u), y = static_cast<int32_t>(at_v);
    const float fu = at_u - static_cast<float>(x), fv = at_v - static_cast<float>(y);
    cells.weight[0][i] = (1.0f - fu) * (1.0f - fv);
    cells.weight[1][i] = fu * (1.0f - fv);
    cells.weight[2][i] = (1.0f - fu) * fv;
    cells.weight[3][i] = fu * fv;
    const uint32_t ux = static_cast<uint32_t>(x), uy = static_cast<uint32_t>(y);
    for (int corner = 0; corner < 4; ++corner) {
      const uint32_t nx = ux + (corner & 1), ny = uy + (corner >> 1);
      cells.index[corner][i] = kHashed ? hashed_index(nx, ny, size) : dense_index(nx, ny, resolution, size);
    }
  }
}

inline void locate_block(const Level& level, const float* u, const float* v, int n, Cells& cells) {
  // The whole block where there is one: a constant trip count vectorises without a tail.
  if (level.is_hashed) {
    n == kBlock ? locate_lanes<true>(level, u, v, kBlock, cells) : locate_lanes<true>(level, u, v, n, cells);
  } else {
    n == kBlock ? locate_lanes<false>(level, u, v, kBlock, cells) : locate_lanes<false>(level, u, v, n, cells);
  }
}

// Coordinates of a block, axis by axis, in 0..1.
struct Coordinates {
  alignas(64) float axis[3][kBlock];

  void load(const float* positions, int n) {
    for (int i = 0; i < n; ++i) {
      for (int a = 0; a < 3; ++a) axis[a][i] = unit_clamp(positions[3 * i + a]);
    }
  }
};

template <int kChannels>
inline void look_up(const Cells& cells, const float* table, int n_channels, int n, float* out, int stride) {
  const int channels = kChannels ? kChannels : n_channels;
  for (int i = 0; i < n; ++i) {
    for (int c = 0; c < channels; ++c) {
      float value = cells.weight[0][i] * table[cells.index[0][i] * channels + c];
      value += cells.weight[1][i] * table[cells.index[1][i] * channels + c];
      value += cells.weight[2][i] * table[cells.index[2][i] * channels + c];
      value += cells.weight[3][i] * table[cells.index[3][i] * channels + c];
      out[i * stride + c] = value;
    }
  }
}

template <int kChannels>
inline void scatter(const Cells& cells, const float* d_out, int stride, int n_channels, int n, float* d_table) {
  const int channels = kChannels ? kChannels : n_channels;
  for (int i = 0; i < n; ++i) {
    for (int c = 0; c < channels; ++c) {
      const float d = d_out[i * stride + c];
      for (int corner = 0; corner < 4; ++corner) {
        d_table[cells.index[corner][i] * channels + c] += cells.weight[corner][i] * d;
      }
    }
  }
}

void encode(const Grid& grid, const float* tables, const float* positions, float* out, int64_t begin, int64_t end) {
  const int width = grid.width(), channels = grid.n_channels;
  Coordinates at;
  Cells cells;
  for (int64_t first = begin; first < end; first += kBlock) {
    const int n = static_cast<int>(end - first < kBlock ? end - first : kBlock);
    at.load(positions + 3 * first, n);
    float* column = out + first * width;
    for (int plane = 0; plane < kPlanes; ++plane) {
      for (int l = 0; l < grid.n_levels; ++l, column += channels) {
        const Level& level = grid.levels[l];
        locate_block(level, at.axis[column_axis(plane)], at.axis[row_axis(plane)], n, cells);
        const float* table = tables + (plane * grid.n_entries + level.offset) * channels;
        if (channels == 1) {
          look_up<1>(cells, table, 1, n, column, width);
        } else {
          look_up<0>(cells, table, channels, n, column, width);
        }
      }
    }
  }
}

void backward_tables(const Grid& grid, const float* positions, const float* d_out, int64_t n_samples, float* d_tables,
                     int64_t begin, int64_t end) {
  const int width = grid.width(), channels = grid.n_channels;
  Coordinates at;
  Cells cells;
  for (int64_t first = 0; first < n_samples; first += kBlock) {
    const int n = static_cast<int>(n_samples - first < kBlock ? n_samples - first : kBlock);
    at.load(positions + 3 * first, n);
    for (int64_t task = begin; task < end; ++task) {
      const int plane = static_cast<int>(task / grid.n_levels);
      const Level& level = grid.levels[task % grid.n_levels];
      locate_block(level, at.axis[column_axis(plane)], at.axis[row_axis(plane)], n, cells);
      const float* d_column = d_out + first * width + task * channels;
      float* d_table = d_tables + (plane * grid.n_entries + level.offset) * channels;
      if (channels == 1) {
        scatter<1>(cells, d_column, width, 1, n, d_table);
      } else {
        scatter<0>(cells, d_column, width, channels, n, d_table);
      }
    }
  }
}

void backward_positions(const Grid& grid, const float* tables, const float* positions, const float* d_out,
                        float* d_positions, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    position_gradient(grid, tables, positions + 3 * i, d_out + i * grid.width(), d_positions + 3 * i);
  }
}

}  // namespace

extern const GridLoops grid_loops;
const GridLoops grid_loops{encode, backward_tables, backward_positions};

}  // namespace synctalk::SYNCTALK_PATH
