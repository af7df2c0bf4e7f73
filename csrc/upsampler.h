// The restorer: a small U-Net that makes a picture twice as large, bilinear enlargement plus the details it has
// learned.
//
// See UpsamplerSpec in sdk/synctalk/spec.py. As there are no biases, nothing comes of nothing: only the surroundings of
// what is there are computed.
#pragma once

#include <memory>
#include <vector>

#include "field.h"
#include "upsampler_planes.h"

namespace synctalk {

// Copies its tensors; may be called from several threads at once.
class Upsampler {
 public:
  // One layer's weights [out, in, 3, 3], `out` a multiple of FIELD_ALIGN.
  struct Layer {
    const float* weights;
    int n_out, n_in;
  };

  // Layers: two a level, one less than levels on the way back, the details. With ranges, the largest outputs of all
  // layers but the last, it computes in 8-bit integers, else in float32.
  Upsampler(const std::vector<Layer>&, const std::vector<float>& ranges);

  // Sides of pictures are multiples of this.
  int multiple() const { return 1 << (n_levels_ - 1); }
  // Gains of all levels' channels, then shifts.
  int n_modulation() const { return n_modulation_; }

  // small: premultiplied RGBA [height, width, 4] in 0..1; out: [2 height, 2 width, 4].
  void apply(const float* small, int height, int width, const float* modulation, float* out) const;

 private:
  void add_layer(const Layer&);
  void add_byte_layer(const Layer&, float in_scale, float out_scale);
  void add_byte_layers(const std::vector<Layer>&, const std::vector<float>& ranges);
  template <class Value, class Convolved>
  void pass(const UpsamplerPath&, const UpsamplerRows<Value, Convolved>&, const std::vector<Convolved>&,
            const float* small, int height, int width, const float* modulation, float* out) const;

  int n_levels_, n_modulation_ = 0;
  std::vector<float> scales_;  // of each layer's outputs: what a unit is
  std::vector<std::unique_ptr<Floats>> weights_;
  std::vector<Convolution> layers_;
  std::vector<std::vector<int32_t>> byte_weights_;
  std::vector<std::vector<float>> byte_scales_;
  std::vector<ByteConvolution> byte_layers_;
};

}  // namespace synctalk
