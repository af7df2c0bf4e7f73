// Puts a rendered head over a picture.
#pragma once

#include <cstdint>

namespace synctalk {

// rgba: premultiplied, 0..1, [n, 4]; below, out: 8-bit RGB [n, 3], which may be the same memory.
void paste(const float* rgba, const uint8_t* below, int64_t n_pixels, uint8_t* out);

}  // namespace synctalk
