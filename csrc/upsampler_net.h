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

constexpr int BYTE_CHANNELS = 16;  // outputs that a kernel computes at a time
constexpr int BYTE_SPARE = 8;      // pixels that may be written behind those asked for

// The same with 7-bit activations and 8-bit weights: quads [n_out / 16][row][n_quads][16], the columns of a row one
// behind the other, n_quads rounded up to whole groups.
struct ByteConvolution {
  const int32_t* weights;
  const float* scales;  // [n_out], of the sums
  int n_in, n_out, n_quads;
};

struct UpsamplerPath {
  // Row of n pixels of a convolution's output. rows: the three input rows, from the pixel left of the first one;
  // out: [n + 1][n_out], a pixel more than needed may be written.
  void (*convolve)(const Convolution&, const float* const rows[3], int n, bool is_last, float* out);
  // The same for bytes: a hidden layer's row, out [n + BYTE_SPARE][n_out]; and the last one's.
  void (*convolve_bytes)(const ByteConvolution&, const uint8_t* const rows[3], int n, uint8_t* out);
  void (*details_of_bytes)(const ByteConvolution&, const uint8_t* const rows[3], int n, float* details);
  // Adds the bilinear enlargement of n pixels to their details [n][UPSAMPLER_OUT] and clips to 0..1. rows as above, of
  // the picture; out: the upper and the lower row, [2 n][UPSAMPLER_PIXEL].
  void (*enlarge)(const float* const rows[3], const float* details, int n, float* upper, float* lower);
};

}  // namespace synctalk
