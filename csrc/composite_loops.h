// Compositing's loops over rays, compiled once per instruction set (SYNCTALK_PATH names the namespace).
#pragma once

#include "composite.h"

namespace synctalk::SYNCTALK_PATH {
namespace {

void forward(const Samples& samples, float* out, float* alpha, float* weight, int64_t begin, int64_t end) {
  const int n_features = samples.n_features;
  for (int64_t r = begin; r < end; ++r) {
    alpha[r] = weigh_ray(samples, r, weight);
    float* __restrict sum = out + r * n_features;
    for (int f = 0; f < n_features; ++f) sum[f] = 0.0f;
    for (int32_t i = samples.offsets[r]; i < samples.offsets[r + 1]; ++i) {
      const float* __restrict feature = samples.feature + static_cast<int64_t>(i) * n_features;
      for (int f = 0; f < n_features; ++f) sum[f] += weight[i] * feature[f];
    }
  }
}

void backward(const Samples& samples, const CompositeGradient& gradient, int64_t begin, int64_t end) {
  const int n_features = samples.n_features;
  for (int64_t r = begin; r < end; ++r) {
    const float* __restrict d_out = gradient.d_out + r * n_features;
    for (int32_t i = samples.offsets[r]; i < samples.offsets[r + 1]; ++i) {
      const float* __restrict feature = samples.feature + static_cast<int64_t>(i) * n_features;
      float* __restrict d_feature = gradient.d_feature + static_cast<int64_t>(i) * n_features;
      const float weight = gradient.weight[i];
      float d = gradient.d_alpha[r] + (gradient.d_weight ? gradient.d_weight[i] : 0.0f);
      for (int f = 0; f < n_features; ++f) {
        d += d_out[f] * feature[f];
        d_feature[f] = weight * d_out[f];
      }
      gradient.d_density[i] = d;
    }
    density_gradient(samples, r, gradient.weight, gradient.d_density);
  }
}

}  // namespace

extern const CompositeLoops composite_loops;
const CompositeLoops composite_loops{forward, backward};

}  // namespace synctalk::SYNCTALK_PATH
