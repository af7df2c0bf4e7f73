// The small network that makes a picture twice as large: bilinear enlargement plus the details it has learned to add.
//
// Convolutions of 3 x 3 without bias, ReLU between them, at the small size; the last one's channels are the details of
// four pixels. As nothing comes of nothing, only the surroundings of what is there are computed.
#pragma once

#include <memory>
#include <vector>

#include "field.h"
#include "upsampler_net.h"

namespace synctalk {

// Copies its tensors; may be called from several threads at once.
class Upsampler {
 public:
  // One layer's weights [out, in, 3, 3], `out` of inner layers a multiple of FIELD_ALIGN.
  struct Layer {
    const float* weights;
    int n_out, n_in;
  };

  explicit Upsampler(const std::vector<Layer>&);

  // small: premultiplied RGBA [height, width, 4]; out: [2 height, 2 width, 4].
  void apply(const float* small, int height, int width, float* out) const;

 private:
  std::vector<std::unique_ptr<Floats>> weights_;
  std::vector<Convolution> layers_;
  int widest_;
};

}  // namespace synctalk
