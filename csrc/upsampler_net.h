// What the upsampler works on: plain structs, shared by the translation units of all instruction sets.
#pragma once

#include "field_net.h"

namespace synctalk {

constexpr int UPSAMPLER_PIXEL = 4;                      // premultiplied red, green, blue; alpha
constexpr int UPSAMPLER_OUT = 2 * 2 * UPSAMPLER_PIXEL;  // the four pixels that a pixel becomes: row, column, channel

// A convolution of 3 x 3 without bias: weights [row][column][in][out], out a multiple of FIELD_ALIGN.
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

// Of a level's channels: value * gain + shift * alpha.
struct Modulation {
  const float *gains, *shifts;
  int n_channels;
};

// Work on rows of n pixels. What convolutions write may have BYTE_SPARE pixels more than asked for.
template <class Value, class Layer>
struct UpsamplerRows {
  // rows: the three input rows, from the pixel left of the first one; out [n][n_out].
  void (*convolve)(const Layer&, const Value* const rows[3], int n, float* out);
  // The same behind a ReLU.
  void (*convolve_hidden)(const Layer&, const Value* const rows[3], int n, Value* out);
  // values [n][n_channels], alpha [n] -> out, behind a ReLU.
  void (*modulate)(const Modulation&, const float* values, const float* alpha, int n, Value* out);
  // Means of 2 x 2: two rows of 2 n pixels -> out [n][n_channels].
  void (*halve)(const Value* upper, const Value* lower, int n, int n_channels, Value* out);
  // side = side * ratio + coarse * alpha, behind a ReLU, for pixels [begin, end) of rows that are given from pixel 0
  // on; a pixel of coarse lies under two of them.
  void (*merge)(const float* coarse, const float* alpha, float ratio, int n_channels, int begin, int end, Value* side);
};

struct UpsamplerPath {
  UpsamplerRows<float, Convolution> floats;
  UpsamplerRows<uint8_t, ByteConvolution> bytes;
  // Adds the bilinear enlargement of n pixels to their details [n][UPSAMPLER_OUT] and clips to 0..1. rows as above, of
  // the picture; out: the upper and the lower row, [2 n][UPSAMPLER_PIXEL].
  void (*enlarge)(const float* const rows[3], const float* details, int n, float* upper, float* lower);
};

}  // namespace synctalk
