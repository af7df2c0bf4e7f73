#include "paste.h"

#include <cstring>

#include "threads.h"

namespace synctalk {

void paste(const float* rgba, const uint8_t* below, int64_t n_pixels, uint8_t* out) {
  constexpr int64_t kGrain = 1 << 14;
  parallel_for(n_pixels, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end;) {
      const int64_t first = i;
      while (i < end && rgba[4 * i + 3] == 0.0f) ++i;  // most of a picture
      std::memmove(out + 3 * first, below + 3 * first, static_cast<size_t>(3 * (i - first)));
      for (; i < end && rgba[4 * i + 3] != 0.0f; ++i) blend_pixel(rgba + 4 * i, below + 3 * i, out + 3 * i);
    }
  });
}

}  // namespace synctalk
