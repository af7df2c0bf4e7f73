#include "paste.h"

#include <algorithm>

#include "threads.h"

namespace synctalk {

void paste(const float* rgba, const uint8_t* below, int64_t n_pixels, uint8_t* out) {
  constexpr int64_t kGrain = 1 << 14;
  parallel_for(n_pixels, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (rgba[4 * i + 3] == 0.0f) {  // most of a picture
        std::copy_n(below + 3 * i, 3, out + 3 * i);
      } else {
        blend_pixel(rgba + 4 * i, below + 3 * i, out + 3 * i);
      }
    }
  });
}

}  // namespace synctalk
