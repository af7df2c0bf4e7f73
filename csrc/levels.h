// Level tables as they come from Python: float64 rows of scale, resolution, size, offset, is_hashed.
#pragma once

#include "arrays.h"
#include "grid.h"

namespace synctalk {

// A level from a row of scale, resolution, size, offset, is_hashed.
inline Level level_of(const double row[5]) {
  for (int i = 0; i < 5; ++i) {
    if (!(row[i] >= 0.0 && row[i] < 2147483648.0)) throw py::value_error("levels: expected values from 0 to 2^31");
  }
  return {static_cast<float>(row[0]), static_cast<uint32_t>(row[1]), static_cast<uint32_t>(row[2]),
          static_cast<uint32_t>(row[3]), row[4] != 0.0};
}

inline std::vector<Level> levels_of(const py::array& levels) {
  const auto n = axis_length(levels, "levels", 2, 0);
  const double* rows = input<double>(levels, "levels", {n, 5});
  std::vector<Level> table;
  for (py::ssize_t i = 0; i < n; ++i) table.push_back(level_of(rows + 5 * i));
  return table;
}

// Throws ValueError unless every node that a coordinate in 0..1 touches has an entry in a table of n_entries.
inline void check_levels(const std::vector<Level>& levels, int64_t n_entries) {
  for (const Level& level : levels) {
    const uint64_t n_dense = static_cast<uint64_t>(level.resolution) * level.resolution;
    const bool is_power = level.size > 0 && (level.size & (level.size - 1)) == 0;
    const bool fits = static_cast<int64_t>(level.offset) + level.size <= n_entries;
    const bool reaches = level.scale + 1.5f < static_cast<float>(level.resolution) + 1.0f;
    const bool is_right =
        level.is_hashed ? is_power : reaches && level.size >= n_dense && level.size > level.resolution;
    if (!fits || !is_right) {
      throw py::value_error("levels: a level of scale " + std::to_string(level.scale) + ", resolution " +
                            std::to_string(level.resolution) + ", size " + std::to_string(level.size) + ", offset " +
                            std::to_string(level.offset) + " does not fit a table of " + std::to_string(n_entries) +
                            " entries: take the levels of synctalk.spec.GridSpec");
    }
  }
}

}  // namespace synctalk
