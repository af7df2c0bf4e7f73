// Multi-resolution 2-D hash grids over three planes. Source: Müller et al. 2022; indexing of tiny-cuda-nn's HashGrid.
#pragma once

#include "host_device.h"

namespace synctalk {

inline constexpr uint32_t kHashPrime = 2654435761u;
inline constexpr int kPlanes = 3;

// One level of every plane; see synctalk.spec.Level.
struct Level {
  float scale;
  uint32_t resolution, size, offset;
  bool is_hashed;  // then size is a power of two
};

// A grid's shape: tables are [3, n_entries, n_channels].
struct Grid {
  const Level* levels;
  int n_levels;
  int64_t n_entries;
  int n_channels;

  SYNCTALK_HD int width() const { return kPlanes * n_levels * n_channels; }
};

// Axes (column, row) of a plane: xy, yz, xz.
SYNCTALK_HD int column_axis(int plane) { return plane == 1 ? 1 : 0; }
SYNCTALK_HD int row_axis(int plane) { return plane == 0 ? 1 : 2; }

// To 0..1; not-a-number becomes 0, so that no index leaves its table.
SYNCTALK_HD float unit_clamp(float u) { return u > 0.0f ? (u < 1.0f ? u : 1.0f) : 0.0f; }

SYNCTALK_HD uint32_t hashed_index(uint32_t x, uint32_t y, uint32_t size) { return (x ^ (y * kHashPrime)) & (size - 1); }

// Nodes lie one past the resolution at most, so one subtraction is the modulo.
SYNCTALK_HD uint32_t dense_index(uint32_t x, uint32_t y, uint32_t resolution, uint32_t size) {
  const uint32_t index = x + y * resolution;
  return index < size ? index : index - size;
}

// Entry of a node within its level.
SYNCTALK_HD uint32_t node_index(const Level& level, uint32_t x, uint32_t y) {
  return level.is_hashed ? hashed_index(x, y, level.size) : dense_index(x, y, level.resolution, level.size);
}

// The four nodes round a point and where it lies between them; corners in the order 00, 10, 01, 11 (column, row).
struct Cell {
  uint32_t index[4];
  float column, row;  // fractions

  SYNCTALK_HD float weight(int corner) const {
    return (corner & 1 ? column : 1.0f - column) * (corner & 2 ? row : 1.0f - row);
  }
};

SYNCTALK_HD Cell locate(const Level& level, float u, float v) {
  const float at_u = unit_clamp(u) * level.scale + 0.5f;
  const float at_v = unit_clamp(v) * level.scale + 0.5f;
  const uint32_t x = static_cast<uint32_t>(static_cast<int32_t>(at_u));
  const uint32_t y = static_cast<uint32_t>(static_cast<int32_t>(at_v));
  Cell cell;
  cell.column = at_u - static_cast<float>(static_cast<int32_t>(x));
  cell.row = at_v - static_cast<float>(static_cast<int32_t>(y));
  for (int corner = 0; corner < 4; ++corner) {
    cell.index[corner] = node_index(level, x + (corner & 1), y + (corner >> 1));
  }
  return cell;
}

// Derivatives of the bilinear value by u and v; outside 0..1 the value is constant.
struct Slope {
  float u, v;
};

SYNCTALK_HD Slope slope_of(const Level& level, const Cell& cell, const float value[4], float u, float v) {
  const float by_column = (1.0f - cell.row) * (value[1] - value[0]) + cell.row * (value[3] - value[2]);
  const float by_row = (1.0f - cell.column) * (value[2] - value[0]) + cell.column * (value[3] - value[1]);
  return {u >= 0.0f && u <= 1.0f ? level.scale * by_column : 0.0f,
          v >= 0.0f && v <= 1.0f ? level.scale * by_row : 0.0f};
}

// The value of one channel of one plane-level at a position.
SYNCTALK_HD float encode_one(const Grid& grid, const float* tables, const float position[3], int plane, int l, int c) {
  const Level& level = grid.levels[l];
  const Cell cell = locate(level, position[column_axis(plane)], position[row_axis(plane)]);
  const float* table = tables + (plane * grid.n_entries + level.offset) * grid.n_channels + c;
  float value = 0.0f;
  for (int corner = 0; corner < 4; ++corner) value += cell.weight(corner) * table[cell.index[corner] * grid.n_channels];
  return value;
}

// The gradient of one sample's position, given that of its encoding, d_out [width].
SYNCTALK_HD void position_gradient(const Grid& grid, const float* tables, const float position[3], const float* d_out,
                                   float d_position[3]) {
  float sum[3] = {0.0f, 0.0f, 0.0f};
  for (int plane = 0; plane < kPlanes; ++plane) {
    const float u = position[column_axis(plane)], v = position[row_axis(plane)];
    for (int l = 0; l < grid.n_levels; ++l) {
      const Level& level = grid.levels[l];
      const Cell cell = locate(level, u, v);
      const float* table = tables + (plane * grid.n_entries + level.offset) * grid.n_channels;
      for (int c = 0; c < grid.n_channels; ++c, ++d_out) {
        float value[4];
        for (int corner = 0; corner < 4; ++corner) value[corner] = table[cell.index[corner] * grid.n_channels + c];
        const Slope slope = slope_of(level, cell, value, u, v);
        sum[column_axis(plane)] += *d_out * slope.u;
        sum[row_axis(plane)] += *d_out * slope.v;
      }
    }
  }
  for (int a = 0; a < 3; ++a) d_position[a] = sum[a];
}

// Loops over samples on the CPU, one table of functions for every instruction set.
struct GridLoops {
  // Samples [begin, end): out [M, width].
  void (*encode)(const Grid&, const float* tables, const float* positions, float* out, int64_t begin, int64_t end);
  // Adds the gradient of all samples to the tables of plane-levels [begin, end), plane-major.
  void (*backward_tables)(const Grid&, const float* positions, const float* d_out, int64_t n_samples, float* d_tables,
                          int64_t begin, int64_t end);
  // Samples [begin, end): writes d_positions [M, 3].
  void (*backward_positions)(const Grid&, const float* tables, const float* positions, const float* d_out,
                             float* d_positions, int64_t begin, int64_t end);
};

void grid_encode(const Grid&, const float* tables, const float* positions, int64_t n_samples, float* out);

// Adds to d_tables; writes d_positions unless it is null. The result does not depend on the number of threads.
void grid_encode_backward(const Grid&, const float* tables, const float* positions, const float* d_out,
                          int64_t n_samples, float* d_tables, float* d_positions);

// The de-hashed node plane of one level: table [n_entries, C] of one plane -> out [C, n, n].
void grid_unroll(const Level&, const float* table, int n_channels, int64_t n_nodes, float* out);

}  // namespace synctalk
