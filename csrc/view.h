// What a camera sees of the head: rays, the footprint of a box, the encoding of a direction.
#pragma once

#include <cmath>

#include "march.h"

namespace synctalk {

// Head pose and camera; see synctalk.geometry.
struct View {
  float rotation[3][3], translation[3];
  float focal, centre_x, centre_y;
};

struct Ray {
  float direction[3];  // unit, head space
  float near, far;     // metres: where steps are counted from, where to stop
  int step, n_samples;
  float transmittance, alpha;
};

// Where the camera is, in head space.
SYNCTALK_HD void camera_origin(const View& view, float origin[3]) {
  for (int a = 0; a < 3; ++a) {
    origin[a] = 0.0f;
    for (int i = 0; i < 3; ++i) origin[a] -= view.translation[i] * view.rotation[i][a];
  }
}

// The ray of a pixel, from the first step that may lie behind camera depth `near` to depth `far` (metres).
SYNCTALK_HD Ray make_ray(const March& march, const View& view, float near, float far, const float origin[3], int x,
                         int y) {
  const float in_camera[3] = {(static_cast<float>(x) + 0.5f - view.centre_x) / view.focal,
                              (static_cast<float>(y) + 0.5f - view.centre_y) / view.focal, 1.0f};
  const float length = sqrtf(in_camera[0] * in_camera[0] + in_camera[1] * in_camera[1] + 1.0f);
  Ray ray{};
  for (int a = 0; a < 3; ++a) {
    float sum = 0.0f;
    for (int i = 0; i < 3; ++i) sum += in_camera[i] * view.rotation[i][a];
    ray.direction[a] = sum / length;
  }
  const Stretch stretch = stretch_in_box(march, origin, ray.direction);
  const float first = (near * length - stretch.near) / march.step - 2.0f, last = far * length + march.step;
  ray.near = stretch.near;
  ray.far = stretch.far < last ? stretch.far : last;
  ray.step = first > 0.0f && first < 1e6f ? static_cast<int>(first) : 0;
  ray.transmittance = 1.0f;
  return ray;
}

// What a box covers in the picture: pixels, and camera depths in metres.
struct Footprint {
  float x0, y0, x1, y1, near, far;
  bool is_behind;  // not in front of the camera as a whole: it may be anywhere
};

SYNCTALK_HD float lesser(float a, float b) { return b < a ? b : a; }
SYNCTALK_HD float greater(float a, float b) { return a < b ? b : a; }

SYNCTALK_HD Footprint footprint_of(const View& view, const float centre[3], const float half[3]) {
  Footprint seen{1e30f, 1e30f, -1e30f, -1e30f, 1e30f, -1e30f, false};
  for (int corner = 0; corner < 8; ++corner) {
    float camera[3];
    for (int i = 0; i < 3; ++i) {
      camera[i] = view.translation[i];
      for (int a = 0; a < 3; ++a) {
        camera[i] += view.rotation[i][a] * (centre[a] + (corner >> a & 1 ? half[a] : -half[a]));
      }
    }
    if (!(camera[2] > 1e-3f)) seen.is_behind = true;
    const float x = view.focal * camera[0] / camera[2] + view.centre_x;
    const float y = view.focal * camera[1] / camera[2] + view.centre_y;
    seen = {lesser(seen.x0, x),           lesser(seen.y0, y),           greater(seen.x1, x), greater(seen.y1, y),
            lesser(seen.near, camera[2]), greater(seen.far, camera[2]), seen.is_behind};
  }
  if (seen.is_behind) {
    seen.near = 0.0f;
    seen.far = 1e6f;
  }
  return seen;
}

// The tile of `side` pixels that a pixel coordinate falls into, of n that begin at pixel `first`; clipped to [-1, n].
SYNCTALK_HD int tile_at(float pixel, int first, int side, int n) {
  const float tile = floorf((pixel - static_cast<float>(first)) / static_cast<float>(side));
  return tile > -1.0f ? (tile < static_cast<float>(n) ? static_cast<int>(tile) : n) : -1;
}

// Tiles [left, right] x [top, bottom] that something seen may reach into; none where left > right or top > bottom.
struct TileSpan {
  int left, top, right, bottom;
};

SYNCTALK_HD TileSpan tiles_under(const Footprint& seen, int x0, int y0, int width, int height, int columns, int rows) {
  if (seen.is_behind) return {0, 0, columns - 1, rows - 1};
  // Half a pixel lies between a pixel's edge and its ray.
  const int left = tile_at(seen.x0 - 0.5f, x0, width, columns), right = tile_at(seen.x1 + 0.5f, x0, width, columns);
  const int top = tile_at(seen.y0 - 0.5f, y0, height, rows), bottom = tile_at(seen.y1 + 0.5f, y0, height, rows);
  return {left < 0 ? 0 : left, top < 0 ? 0 : top, right < columns ? right : columns - 1,
          bottom < rows ? bottom : rows - 1};
}

// Real spherical harmonics up to degree 3 in the order of fields like this one: l = 0..3, m = -l..l.
SYNCTALK_HD void spherical_harmonics(const float direction[3], float out[16]) {
  const float x = direction[0], y = direction[1], z = direction[2];
  const float xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
  out[0] = 0.28209479177387814f;
  out[1] = -0.48860251190291987f * y;
  out[2] = 0.48860251190291987f * z;
  out[3] = -0.48860251190291987f * x;
  out[4] = 1.0925484305920792f * xy;
  out[5] = -1.0925484305920792f * yz;
  out[6] = 0.94617469575755997f * zz - 0.31539156525251999f;
  out[7] = -1.0925484305920792f * xz;
  out[8] = 0.54627421529603959f * (xx - yy);
  out[9] = 0.59004358992664352f * y * (yy - 3.0f * xx);
  out[10] = 2.8906114426405538f * xy * z;
  out[11] = 0.45704579946446572f * y * (1.0f - 5.0f * zz);
  out[12] = 0.3731763325901154f * z * (5.0f * zz - 3.0f);
  out[13] = 0.45704579946446572f * x * (1.0f - 5.0f * zz);
  out[14] = 1.4453057213202769f * z * (xx - yy);
  out[15] = 0.59004358992664352f * x * (3.0f * yy - xx);
}

// Neighbouring cells of the occupancy, one of them occupied at least: their centre in head space, metres.
struct Brick {
  float centre[3];
};

}  // namespace synctalk
