// Volume rendering along rays. Source: Max 1995; the quadrature that radiance fields use.
//
//   alpha_i = 1 - exp(-density_i * step);  weight_i = alpha_i * prod_{j < i} (1 - alpha_j);  out = sum_i weight_i
//   feature_i
#pragma once

#include <cmath>

#include "host_device.h"

namespace synctalk {

// What a composite reads: samples of one ray are consecutive, ray r has [offsets[r], offsets[r + 1]).
struct Samples {
  const float* density;    // [M]
  const float* feature;    // [M, F]
  const int32_t* offsets;  // [R + 1]
  int n_features;          // F
  float step;              // metres
};

struct CompositeGradient {
  const float* weight;    // [M], from the forward pass
  const float* d_out;     // [R, F]
  const float* d_alpha;   // [R]
  const float* d_weight;  // [M], or null
  float* d_density;       // [M]
  float* d_feature;       // [M, F]
};

// Weights of one ray; returns its alpha.
SYNCTALK_HD float weigh_ray(const Samples& samples, int64_t ray, float* weight) {
  float transmittance = 1.0f;
  for (int32_t i = samples.offsets[ray]; i < samples.offsets[ray + 1]; ++i) {
    const float kept = expf(-samples.density[i] * samples.step);
    weight[i] = transmittance * (1.0f - kept);
    transmittance *= kept;
  }
  return 1.0f - transmittance;
}

// The gradient of one ray's density, given d_weight_i of the loss in `d` (overwritten with d_density_i):
// d_density_i = step * (T_{i+1} d_i - sum_{j > i} weight_j d_j).
SYNCTALK_HD void density_gradient(const Samples& samples, int64_t ray, const float* weight, float* d) {
  float transmittance = 1.0f, behind = 0.0f;
  for (int32_t i = samples.offsets[ray]; i < samples.offsets[ray + 1]; ++i) behind += weight[i] * d[i];
  for (int32_t i = samples.offsets[ray]; i < samples.offsets[ray + 1]; ++i) {
    transmittance *= expf(-samples.density[i] * samples.step);
    behind -= weight[i] * d[i];
    d[i] = samples.step * (transmittance * d[i] - behind);
  }
}

// Loops over rays [begin, end) on the CPU, one table of functions for every instruction set.
struct CompositeLoops {
  void (*forward)(const Samples&, float* out, float* alpha, float* weight, int64_t begin, int64_t end);
  void (*backward)(const Samples&, const CompositeGradient&, int64_t begin, int64_t end);
};

// out [R, F], alpha [R], weight [M].
void composite(const Samples&, int64_t n_rays, float* out, float* alpha, float* weight);

// Writes d_density and d_feature.
void composite_backward(const Samples&, int64_t n_rays, const CompositeGradient&);

}  // namespace synctalk
