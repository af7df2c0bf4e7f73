// Puts a rendered head over a picture.
#pragma once

#include "host_device.h"

namespace synctalk {

// One pixel: a head's premultiplied RGBA, 0..1, over 8-bit RGB.
SYNCTALK_HD void blend_pixel(const float head[4], const uint8_t below[3], uint8_t out[3]) {
  const float clear = 1.0f - head[3];
  for (int c = 0; c < 3; ++c) {
    const float shown = clear * static_cast<float>(below[c]) + 255.0f * head[c] + 0.5f;
    out[c] = static_cast<uint8_t>(shown > 0.0f ? (shown < 255.0f ? shown : 255.0f) : 0.0f);
  }
}

// rgba: premultiplied, 0..1, [n, 4]; below, out: 8-bit RGB [n, 3], which may be the same memory.
void paste(const float* rgba, const uint8_t* below, int64_t n_pixels, uint8_t* out);

}  // namespace synctalk
