// Ray marching through an occupancy grid over a box.
#pragma once

#include "host_device.h"

namespace synctalk {

struct March {
  float box_min[3], box_max[3], inverse_extent[3];  // metres, 1 / (max - min)
  const uint8_t* occupancy;                         // G^3 bits, see docs/formats.md
  int resolution;                                   // G
  float step;                                       // metres
  int max_samples;                                  // per ray
};

SYNCTALK_HD bool is_occupied(const March& march, const float unit[3]) {
  const int g = march.resolution;
  int cell[3];
  for (int a = 0; a < 3; ++a) {
    const int i = static_cast<int>(unit[a] * static_cast<float>(g));
    cell[a] = i < 0 ? 0 : (i < g ? i : g - 1);
  }
  const int64_t bit = (static_cast<int64_t>(cell[2]) * g + cell[1]) * g + cell[0];
  return (march.occupancy[bit >> 3] >> (bit & 7)) & 1;
}

// The stretch of a ray that lies in the box and not behind its origin; empty where near >= far.
struct Stretch {
  float near, far;
};

SYNCTALK_HD Stretch stretch_in_box(const March& march, const float origin[3], const float direction[3]) {
  Stretch stretch{0.0f, 3.0e38f};
  for (int a = 0; a < 3; ++a) {
    if (direction[a] == 0.0f) {
      if (!(origin[a] >= march.box_min[a] && origin[a] <= march.box_max[a])) return {1.0f, 0.0f};
      continue;
    }
    const float inverse = 1.0f / direction[a];
    const float at_min = (march.box_min[a] - origin[a]) * inverse;
    const float at_max = (march.box_max[a] - origin[a]) * inverse;
    const float first = at_min < at_max ? at_min : at_max;
    const float last = at_min < at_max ? at_max : at_min;
    if (!(first <= last)) return {1.0f, 0.0f};  // not a number
    stretch.near = first > stretch.near ? first : stretch.near;
    stretch.far = last < stretch.far ? last : stretch.far;
  }
  return stretch;
}

// A point of the ray, in 0..1 of the box.
SYNCTALK_HD void unit_position(const March& march, const float origin[3], const float direction[3], float distance,
                               float unit[3]) {
  for (int a = 0; a < 3; ++a) {
    const float u = (origin[a] + direction[a] * distance - march.box_min[a]) * march.inverse_extent[a];
    unit[a] = u > 0.0f ? (u < 1.0f ? u : 1.0f) : 0.0f;
  }
}

// Calls emit(j, distance) for the samples of one ray: one in every step of march.step from where the ray enters the
// box, `jitter` steps (0..1; 0.5 is the middle) after the step's start, kept where its cell is occupied. Returns how
// many.
template <class Emit>
SYNCTALK_HD int march_ray(const March& march, const float origin[3], const float direction[3], float jitter,
                          Emit emit) {
  const Stretch stretch = stretch_in_box(march, origin, direction);
  int n = 0;
  for (int k = 0; n < march.max_samples; ++k) {
    const float distance = stretch.near + (static_cast<float>(k) + jitter) * march.step;
    if (!(distance < stretch.far)) break;
    float unit[3];
    unit_position(march, origin, direction, distance, unit);
    if (is_occupied(march, unit)) emit(n++, distance);
  }
  return n;
}

// Writes the samples of all rays one after the other; returns their number. positions [cap, 3], distances [cap],
// rays [cap], offsets [R + 1] with cap >= R * max_samples.
int64_t march_rays(const March&, const float* origins, const float* directions, const float* jitter, int64_t n_rays,
                   float* positions, float* distances, int32_t* rays, int32_t* offsets);

}  // namespace synctalk
