// Builds the integer field of a renderer from its tensors and the ranges of its activations.
#pragma once

#include <cstdint>
#include <vector>

#include "large_pages.h"
#include "quantised_net.h"

namespace synctalk {

struct RendererTensors;
struct Matrix;

// Largest absolute values met in calibration.
struct QuantisedRanges {
  float attended, gated;
  std::vector<float> hidden;  // of the density network's hidden layers
  float feature, appearance;  // of the colour network's inputs
  std::vector<float> colour_hidden;
  float byte_reach;  // which share of a range 7 bits span in the layers that may have bytes; 0: 16 bits everywhere
};

class QuantisedField {
 public:
  // Throws std::invalid_argument for ranges that do not fit the tensors or weights that 16 bits cannot hold.
  QuantisedField(const RendererTensors&, const QuantisedRanges&);
  QuantisedField(const QuantisedField&) = delete;
  QuantisedField& operator=(const QuantisedField&) = delete;

  const QuantisedNet& net() const { return net_; }

 private:
  float add_planes(const RendererTensors&);
  ByteLayer add_byte_layer(const Matrix&, float in_scale, float out_scale);
  QuantisedLayer add_layer(const Matrix&, const std::vector<float>& column_scales, float out_scale);

  LargePages<uint64_t> quads_;
  std::vector<QuadPlane> planes_;
  std::vector<std::vector<int32_t>> weights_;
  std::vector<std::vector<float>> colour_scales_, byte_scales_;
  QuantisedNet net_{};
};

}  // namespace synctalk
