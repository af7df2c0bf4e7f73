#include "paste.h"

#include <algorithm>

#include "threads.h"

namespace synctalk {

void paste(const float* rgba, const uint8_t* below, int64_t n_pixels, uint8_t* out) {
  constexpr int64_t kGrain = 1 << 14;
  parallel_for(n_pixels, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float *head = rgba + 4 * i, clear = 1.0f - head[3];
      if (clear == 1.0f) {  // most of a picture
        std::copy_n(below + 3 * i, 3, out + 3 * i);
        continue;
      }
      for (int c = 0; c < 3; ++c) {
        const float shown = clear * static_cast<float>(below[3 * i + c]) + 255.0f * head[c] + 0.5f;
        out[3 * i + c] = static_cast<uint8_t>(std::clamp(shown, 0.0f, 255.0f));
      }
    }
  });
}

}  // namespace synctalk
