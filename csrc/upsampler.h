// The small network that makes a picture twice as large: bilinear enlargement plus the details it has learned to add.
//
// Convolutions of 3 x 3 without bias, ReLU between them, at the small size; the last one's channels are the details of
// four pixels. As nothing comes of nothing, only the surroundings of what is there are computed.
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

  // With ranges, the largest outputs of all layers but the last, it computes in 8-bit integers, else in float32.
  Upsampler(const std::vector<Layer>&, const std::vector<float>& ranges);

  // small: premultiplied RGBA [height, width, 4] in 0..1; out: [2 height, 2 width, 4].
  void apply(const float* small, int height, int width, float* out) const;

 private:
  void add_layer(const Layer&);
  void add_byte_layer(const Layer&, float in_scale, float out_scale);

  std::vector<std::unique_ptr<Floats>> weights_;
  std::vector<Convolution> layers_;
  std::vector<std::vector<int32_t>> byte_weights_;
  std::vector<std::vector<float>> byte_scales_;
  std::vector<ByteConvolution> byte_layers_;
  int widest_;
};

}  // namespace synctalk
