#include "bricks.h"

namespace synctalk {
namespace {

constexpr int kBrickCells = 4;  // per axis

// Which of n^3 bricks hold an occupied cell.
std::vector<uint8_t> used_bricks(const March& march, int n) {
  const int64_t g = march.resolution;
  std::vector<uint8_t> is_used(static_cast<size_t>(n) * n * n);
  for (int64_t i = 0; i < g * g * g; ++i) {
    if (!(march.occupancy[i >> 3] >> (i & 7) & 1)) continue;
    const int64_t x = i % g / kBrickCells, y = i / g % g / kBrickCells, z = i / g / g / kBrickCells;
    is_used[(z * n + y) * n + x] = 1;
  }
  return is_used;
}

}  // namespace

Bricks bricks_of(const March& march) {
  const int n = (march.resolution + kBrickCells - 1) / kBrickCells;
  Bricks found;
  float size[3];
  for (int a = 0; a < 3; ++a) {
    size[a] = kBrickCells / (march.inverse_extent[a] * static_cast<float>(march.resolution));
    found.half[a] = 0.5f * size[a] * 1.001f;  // a little more, against rounding
  }
  const auto is_used = used_bricks(march, n);
  for (int64_t i = 0; i < static_cast<int64_t>(is_used.size()); ++i) {
    const int64_t at[3] = {i % n, i / n % n, i / n / n};
    if (!is_used[i]) continue;
    Brick& brick = found.bricks.emplace_back();
    for (int a = 0; a < 3; ++a) brick.centre[a] = march.box_min[a] + (static_cast<float>(at[a]) + 0.5f) * size[a];
  }
  return found;
}

}  // namespace synctalk
