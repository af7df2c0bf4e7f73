// Marching's settings as they come from Python, checked.
#pragma once

#include "arrays.h"
#include "march.h"

namespace synctalk {

inline py::ssize_t occupancy_bytes(int resolution) {
  if (resolution < 1 || resolution > 1024) throw py::value_error("resolution: expected 1 to 1024 cells per axis");
  return (static_cast<py::ssize_t>(resolution) * resolution * resolution + 7) / 8;
}

inline March march_of(const float* box_min, const float* box_max, int resolution, float step, int max_samples,
                      const uint8_t* occupancy) {
  if (!(step > 0.0f) || max_samples < 1) throw py::value_error("step and max_samples: expected to be positive");
  March march{{}, {}, {}, occupancy, resolution, step, max_samples};
  for (int a = 0; a < 3; ++a) {
    if (!(box_min[a] < box_max[a])) throw py::value_error("box_min: expected to be below box_max on every axis");
    march.box_min[a] = box_min[a];
    march.box_max[a] = box_max[a];
    march.inverse_extent[a] = 1.0f / (box_max[a] - box_min[a]);
  }
  return march;
}

}  // namespace synctalk
