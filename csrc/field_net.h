// What the fused field's kernels work on: plain structs, shared by the translation units of all instruction sets.
//
//   x = grid(position);  g = gate(attention(x));  h = density([x, g * [condition, expression]])
//   log_density = h[0];  feature = h[1:]
//
// Linear layers without bias, weights [out, in], ReLU between them.
#pragma once

#include <cstdint>

#include "grid.h"

namespace synctalk {

constexpr int FIELD_BLOCK = 48;  // samples that go through the networks at a time; a multiple of the kernels' 6 rows
constexpr int FIELD_PIECE = 32 * FIELD_BLOCK;  // samples that go through the grid at a time, level by level
constexpr int FIELD_MAX_LAYERS = 8;            // linear layers of the density network
constexpr int FIELD_ALIGN = 16;                // row strides in floats: the widest vector

// One linear layer, zero-padded to whole vectors.
struct FieldLayer {
  int n_in, n_out;
  const float* forward;   // [n_in][padded(n_out)]
  const float* backward;  // [n_out][padded(n_in)]; null where no gradient is asked for
};

struct FieldNet {
  Grid grid;
  const float* tables;  // [3, entries, channels]
  int n_encoded, n_gates, n_feature;
  bool is_sigmoid;
  int n_density;
  FieldLayer attention[2];
  FieldLayer density[FIELD_MAX_LAYERS];
};

// What one thread adds up in the backward pass. Weight gradients: [even(n_out)][padded(n_in)].
struct FieldSums {
  float* tables;
  float* attention[2];
  float* density[FIELD_MAX_LAYERS];
};

// Samples of one frame, at most FIELD_PIECE.
struct FieldPiece {
  const float* positions;  // [n, 3]
  int n;
  const float* drive;  // [padded(n_gates)] condition, expression, zeros
};

// The kernels of one instruction set.
struct FieldPath {
  long (*workspace_floats)(const FieldNet&);
  void (*forward)(const FieldNet&, const FieldPiece&, float* workspace, float* log_density, float* feature);
  void (*backward)(const FieldNet&, const FieldPiece&, float* workspace, const float* d_log_density,
                   const float* d_feature, const FieldSums&, float* d_drive);
};

}  // namespace synctalk
