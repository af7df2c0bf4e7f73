// The field in 16-bit integers: plain structs, shared by the translation units of all instruction sets.
//
// A value v of an activation is the integer round(v * scale) with one scale for each input column, a sum of products is
// 32 bits wide, and a shift brings a hidden layer's sums to the next scale. Inputs travel in pairs: two 16-bit halves
// of a 32-bit word, the first in the low half, which one instruction multiplies by two weights and adds.
//
// Rounding bounds: weights are scaled so that no sum can leave 32 bits, whatever the activations are.
//
// Layers whose inputs have passed a ReLU may have bytes instead: activations of 7 bits in quads, weights of 8 bits with
// a scale for each output.
#pragma once

#include <cstdint>

namespace synctalk {

constexpr int QUANTISED_OUTPUTS = 4;  // outputs that a kernel with one sample in a lane computes at a time
constexpr int QUANTISED_MAX_LAYERS = 8;

struct QuantisedLayer {
  int n_pairs, n_out;
  const int32_t* lanes_of_samples;  // [ceil(n_out / 4)][n_pairs][4]
  const int32_t* lanes_of_outputs;  // [n_pairs][padded(n_out)]
  int shift;                        // a hidden layer's output is (sum + half) >> shift, cut to 0..32767
  float scale;                      // of a last layer's sums
};

constexpr int BYTE_TOP = 127;  // of activations: two products of 7 and 8 bits fit into 16
constexpr int QUAD_GROUP = 4;  // quads whose products are added in 16 bits

struct ByteLayer {
  int n_quads, n_out;               // n_quads: whole groups
  const int32_t* lanes_of_samples;  // [ceil(n_out / 4)][n_quads][4]
  const int32_t* lanes_of_outputs;  // [n_quads][padded(n_out)]
  const float* scales;              // [padded(n_out)], of the sums
};

// The four nodes around every cell of one plane, level and channel: at (v, u), (v, u + 1), (v + 1, u), (v + 1, u + 1).
//
// Blocks of 8 x 8 cells lie one after the other, and in them cache lines of 4 x 2: what neighbouring pixels see shares
// lines and, more, pages. The place of cell (v, u) is place_of_row(v) + place_in_row(u).
struct QuadPlane {
  const uint64_t* quads;
  int n_blocks;  // per axis
  float scale;   // as NodePlane's
};

constexpr int QUAD_BLOCK = 8;  // cells per axis

// Int: int32_t, or a vector of such.
template <class Int>
static inline Int place_in_row(Int u) {
  return (u & 3) + ((u & 4) << 1) + ((u >> 3) << 6);
}

template <class Int>
static inline Int place_of_row(Int v, int n_blocks) {
  return ((v & 1) << 2) + ((v & 6) << 3) + ((v >> 3) << 6) * n_blocks;
}

struct QuantisedNet {
  const QuadPlane* planes;  // [levels][3][channels]
  int n_levels, n_channels;
  QuantisedLayer attention[2], density[QUANTISED_MAX_LAYERS], colour[QUANTISED_MAX_LAYERS];
  float gated_scale;                                 // of gated condition and expression
  const float* colour_scales[QUANTISED_MAX_LAYERS];  // [padded(inputs)] of the colour network's layers
  bool has_bytes;  // the layers below take the place of theirs, and those before them make quads
  ByteLayer byte_gate, byte_density[QUANTISED_MAX_LAYERS];  // attention[1], and density from [1] on
};

}  // namespace synctalk
