// The fused field: hash grid, attention and density network over blocks of samples that stay in the cache.
//
// Nothing but inputs and outputs goes through memory: the backward pass computes the forward pass again, block by
// block.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "field_net.h"
#include "grid.h"

namespace synctalk {

struct FieldShape {
  std::vector<Level> levels;
  int n_channels, condition, expression, attention_hidden;
  bool is_sigmoid;
  int density_hidden, density_layers, feature;

  int64_t n_entries() const { return int64_t{levels.back().offset} + levels.back().size; }  // of one plane
  int n_encoded() const { return kPlanes * static_cast<int>(levels.size()) * n_channels; }
  int n_gates() const { return condition + expression; }
  // (out, in) of the attention's two layers, then of the density network's.
  std::vector<std::pair<int, int>> layers() const;
};

struct FieldInputs {
  const float* positions;  // [M, 3] in 0..1, sorted by frame
  const int32_t* groups;   // [n_frames + 1] offsets of the frames' samples, from 0 to M
  int n_frames;
  const float* condition;             // [n_frames, condition]
  const float* expression;            // [n_frames, expression]
  const float* tables;                // [3, entries, channels]
  std::vector<const float*> weights;  // in the order of FieldShape::layers()
};

struct FieldGradients {
  float* condition;
  float* expression;
  float* tables;
  std::vector<float*> weights;
};

class Field {
 public:
  explicit Field(FieldShape shape);
  const FieldShape& shape() const { return shape_; }
  void forward(const FieldInputs&, float* log_density, float* feature) const;
  // Overwrites the gradients. Equal inputs and number of threads give equal bits.
  void backward(const FieldInputs&, const float* d_log_density, const float* d_feature, const FieldGradients&) const;

 private:
  FieldShape shape_;

  FieldNet net() const;
};

// Zeroed floats at a cache line.
class Floats {
 public:
  explicit Floats(int64_t n) : memory_(n + 16) {}
  float* data() {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    return reinterpret_cast<float*>((address + 63) / 64 * 64);
  }

 private:
  std::vector<float> memory_;
};

// At least n floats of the calling thread, kept from call to call: new pages, or clearing, for every frame would cost
// more than some of the work. Every Owner has its own; they hold what was last put there.
template <class Owner>
float* floats_of_thread(int64_t n) {
  thread_local std::unique_ptr<Floats> memory;
  thread_local int64_t size = 0;
  if (size < n) {
    memory = std::make_unique<Floats>(n);
    size = n;
  }
  return memory->data();
}

// Zero-padded weights of a network, and the layers that point to them.
class PackedLayers {
 public:
  // weights [out, in]; `is_trained` adds the layout of the backward pass.
  FieldLayer add(const float* weights, int n_out, int n_in, bool is_trained);

 private:
  std::vector<Floats> packed_;
};

// The kernels of the instruction set in use.
const FieldPath& field_path();

}  // namespace synctalk
