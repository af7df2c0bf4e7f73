// What the fused field's kernels work on: plain structs, shared by the translation units of all instruction sets.
//
//   x = grid(position);  g = gate(attention(x));  h = density([x, g * [condition, expression]])
//   log_density = h[0];  feature = h[1:]
//
// Linear layers without bias, weights [out, in], ReLU between them.
#pragma once

#include <cstdint>

namespace synctalk {

constexpr int FIELD_BLOCK = 48;        // samples at a time; a multiple of the kernels' 6 rows
constexpr int FIELD_MAX_LAYERS = 8;    // linear layers of the density network
constexpr int FIELD_ALIGN = 16;        // row strides in floats: the widest vector

inline constexpr int field_padded(int n) { return (n + FIELD_ALIGN - 1) / FIELD_ALIGN * FIELD_ALIGN; }

// One linear layer, zero-padded to whole vectors.
struct FieldLayer {
  int n_in, n_out;
  const float* forward;   // [n_in][padded(n_out)]
  const float* backward;  // [n_out][padded(n_in)]; null where no gradient is asked for
};

// One lane of the hash encoding: a plane and a level. Arrays of padded(n_slots).
struct FieldSlots {
  int n_slots, n_channels;
  const float* scale;
  const float* axis;        // [4][padded(n_slots)] 0 or 1: x in u, y in u, y in v, z in v
  const int32_t* resolution;
  const int32_t* size;
  const int32_t* offset;    // first entry, all planes in one table
  const int32_t* is_hashed; // 0 or -1
};

struct FieldNet {
  FieldSlots slots;
  const float* tables;
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

// Samples of one frame, at most FIELD_BLOCK.
struct FieldBlock {
  const float* positions;  // [n, 3]
  int n;
  const float* drive;      // [padded(n_gates)] condition, expression, zeros
};

// The kernels of one instruction set.
struct FieldPath {
  long (*workspace_floats)(const FieldNet&);
  void (*forward)(const FieldNet&, const FieldBlock&, float* workspace, float* log_density, float* feature);
  void (*backward)(const FieldNet&, const FieldBlock&, float* workspace, const float* d_log_density,
                   const float* d_feature, const FieldSums&, float* d_drive);
};

}  // namespace synctalk
