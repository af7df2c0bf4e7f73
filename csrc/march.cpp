#include "march.h"

#include <cstring>

#include "threads.h"

namespace synctalk {

int64_t march_rays(const March& march, const float* origins, const float* directions, const float* jitter,
                   int64_t n_rays, float* positions, float* distances, int32_t* rays, int32_t* offsets) {
  constexpr int64_t kGrain = 256;
  // Every ray writes its distances to its own slot; then they move together, and positions follow.
  parallel_for(n_rays, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* slot = distances + r * march.max_samples;
      offsets[r + 1] = march_ray(march, origins + 3 * r, directions + 3 * r, jitter[r],
                                 [slot](int j, float distance) { slot[j] = distance; });
    }
  });
  offsets[0] = 0;
  for (int64_t r = 0; r < n_rays; ++r) {
    const int32_t n = offsets[r + 1];
    std::memmove(distances + offsets[r], distances + r * march.max_samples, sizeof(float) * n);
    offsets[r + 1] += offsets[r];
  }
  parallel_for(n_rays, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int32_t i = offsets[r]; i < offsets[r + 1]; ++i) {
        unit_position(march, origins + 3 * r, directions + 3 * r, distances[i], positions + 3 * i);
        rays[i] = static_cast<int32_t>(r);
      }
    }
  });
  return offsets[n_rays];
}

}  // namespace synctalk
