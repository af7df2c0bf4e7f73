// Bilinear look-up in the node planes of a bundle: the kernel behind the ONNX node synctalk::PlaneLookup.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "grid.h"

namespace synctalk {

inline constexpr int kMaxNodePlanes = 96;

// float16 nodes [n_channels][n][n] of every plane and level, plane-major, row = second axis.
struct NodePlanes {
  const uint16_t* nodes[kMaxNodePlanes];
  float scale[kMaxNodePlanes];  // node k lies at u * scale + 0.5 = k
  int n[kMaxNodePlanes];        // nodes a side
  int n_planes, n_channels;     // n_planes = 3 * levels

  SYNCTALK_HD int width() const { return n_planes * n_channels; }
};

// Nodes a side that a coordinate in 0..1 can touch; see synctalk.spec.Level.n_nodes.
SYNCTALK_HD int nodes_of(float scale) { return static_cast<int>(scale + 0.5f) + 2; }

// float16 to float32, exactly; subnormal numbers included, infinities not (a bundle holds none).
SYNCTALK_HD float half_value(uint16_t bits) {
  union {
    uint32_t u;
    float f;
  } shifted;
  shifted.u = static_cast<uint32_t>(bits & 0x7fff) << 13;
  const float magnitude = shifted.f * 5.192296858534828e33f;  // 2^112: the exponents' biases differ by so much
  return bits & 0x8000 ? -magnitude : magnitude;
}

// One output of the encoding of a position: `column` counts planes, levels, channels, the last fastest.
SYNCTALK_HD float look_up_one(const NodePlanes& planes, const float position[3], int column) {
  const int p = column / planes.n_channels, c = column % planes.n_channels;
  const int plane = p / (planes.n_planes / kPlanes), n = planes.n[p];
  const float u = unit_clamp(position[column_axis(plane)]) * planes.scale[p] + 0.5f;
  const float v = unit_clamp(position[row_axis(plane)]) * planes.scale[p] + 0.5f;
  const int x = static_cast<int>(u), y = static_cast<int>(v);
  const float at_x = u - static_cast<float>(x), at_y = v - static_cast<float>(y);
  const uint16_t* corner = planes.nodes[p] + (static_cast<int64_t>(c) * n + y) * n + x;
  const float top = half_value(corner[0]) + at_x * (half_value(corner[1]) - half_value(corner[0]));
  const float bottom = half_value(corner[n]) + at_x * (half_value(corner[n + 1]) - half_value(corner[n]));
  return top + at_y * (bottom - top);
}

// Scales and sizes of so many planes, a level each of `scales`; nodes and n_channels are the caller's to fill in.
// Throws std::invalid_argument where planes and scales do not belong together.
inline NodePlanes empty_planes(size_t n_planes, const std::vector<float>& scales) {
  if (scales.empty() || n_planes != kPlanes * scales.size() || n_planes > kMaxNodePlanes) {
    throw std::invalid_argument("planes: expected 3 for each of 1 to " + std::to_string(kMaxNodePlanes / kPlanes) +
                                " scales, got " + std::to_string(n_planes) + " for " + std::to_string(scales.size()));
  }
  NodePlanes planes{};
  planes.n_planes = static_cast<int>(n_planes);
  for (size_t p = 0; p < n_planes; ++p) {
    planes.scale[p] = scales[p % scales.size()];
    if (!(planes.scale[p] >= 0.0f && planes.scale[p] < 16384.0f)) {
      throw std::invalid_argument("scales: expected 0 to 16384");
    }
    planes.n[p] = nodes_of(planes.scale[p]);
  }
  return planes;
}

// positions [M, 3] -> out [M, width]
void plane_lookup(const NodePlanes&, const float* positions, int64_t n_samples, float* out);

}  // namespace synctalk
