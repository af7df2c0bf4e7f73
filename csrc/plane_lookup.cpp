#include "plane_lookup.h"

#include "threads.h"

namespace synctalk {

void plane_lookup(const NodePlanes& planes, const float* positions, int64_t n_samples, float* out) {
  constexpr int64_t kGrain = 256;
  const int width = planes.width();
  parallel_for(n_samples, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int column = 0; column < width; ++column) {
        out[i * width + column] = look_up_one(planes, positions + 3 * i, column);
      }
    }
  });
}

}  // namespace synctalk
