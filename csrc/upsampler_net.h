// What the upsampler works on: plain structs, shared by the translation units of all instruction sets.
#pragma once

#include "field_net.h"

namespace synctalk {

constexpr int UPSAMPLER_PIXEL = 4;                      // premultiplied red, green, blue; alpha
constexpr int UPSAMPLER_OUT = 2 * 2 * UPSAMPLER_PIXEL;  // the four pixels that a pixel becomes: row, column, channel

// A convolution of 3 x 3 without bias: weights [row][column][in][out], out padded to FIELD_ALIGN.
struct Convolution {
  const float* weights;
  int n_in, n_out;
};

struct UpsamplerPath {
  // Row of n pixels of a convolution's output. rows: the three input rows, from the pixel left of the first one;
  // out: [n + 1][n_out], a pixel more than needed may be written.
  void (*convolve)(const Convolution&, const float* const rows[3], int n, bool is_last, float* out);
  // Adds the bilinear enlargement of n pixels to their details [n][UPSAMPLER_OUT] and clips to 0..1. rows as above, of
  // the picture; out: the upper and the lower row, [2 n][UPSAMPLER_PIXEL].
  void (*enlarge)(const float* const rows[3], const float* details, int n, float* upper, float* lower);
};

}  // namespace synctalk
