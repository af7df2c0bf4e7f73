#include "quantised.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "byte_weights.h"
#include "renderer.h"

namespace synctalk {

namespace {

constexpr float kNodeTop = 16384.0f;  // a look-up never leaves the range of its nodes
constexpr float kValueTop = 8192.0f;  // other activations may be four times as large as in calibration
constexpr float kSumTop = 65000.0f;   // of a row's absolute weights: times 32767, less than 2^31
constexpr float kWeightTop = 32767.0f;
constexpr float kGroupTop = 254.0f;  // of a group's weights of one sign: rounded, times 127, less than 2^15
constexpr int kMostShift = 24;
constexpr int kMostEncoded = 256;

float scale_of(float range) {
  if (!(range >= 0.0f) || !std::isfinite(range)) throw std::invalid_argument("ranges: expected finite, not negative");
  return kValueTop / std::max(range, 1e-3f);
}

float from_half(uint16_t half) {
  const uint32_t bits = (half & 0x8000u) << 16 | (half & 0x7fffu) << 13;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value * 0x1p112f;
}

// The scale of activations of 7 bits.
float byte_scale_of(float range, float reach) { return scale_of(range) * (BYTE_TOP / kValueTop) / reach; }

int64_t padded(int64_t n) { return (n + FIELD_ALIGN - 1) / FIELD_ALIGN * FIELD_ALIGN; }

int32_t pair_of(int first, int second) {
  return static_cast<int32_t>((static_cast<uint32_t>(first) & 0xffffu) | static_cast<uint32_t>(second) << 16);
}

}  // namespace

// Planes as quads, in the order of QuantisedNet; returns the scale of their values.
float QuantisedField::add_planes(const RendererTensors& tensors) {
  const int n_levels = static_cast<int>(tensors.planes.size()) / kPlanes;
  float range = 0.0f;
  for (const NodePlane& plane : tensors.planes) {
    const int64_t n = int64_t{tensors.n_channels} * plane.n * plane.n;
    for (int64_t i = 0; i < n; ++i) range = std::max(range, std::fabs(from_half(plane.nodes[i])));
  }
  const float scale = kNodeTop / std::max(range, 1e-6f);
  const auto n_quads = [](const NodePlane& plane) {
    const int64_t n_blocks = (plane.n - 1 + QUAD_BLOCK - 1) / QUAD_BLOCK;
    return n_blocks * n_blocks * QUAD_BLOCK * QUAD_BLOCK;
  };
  int64_t n_all = 0;
  for (const NodePlane& plane : tensors.planes) n_all += tensors.n_channels * n_quads(plane);
  quads_ = LargePages<uint64_t>(n_all);
  uint64_t* quads = quads_.data();
  for (int level = 0; level < n_levels; ++level) {
    for (int p = 0; p < kPlanes; ++p) {
      const NodePlane& plane = tensors.planes[p * n_levels + level];
      std::vector<int16_t> nodes(static_cast<size_t>(plane.n) * plane.n);
      for (int channel = 0; channel < tensors.n_channels; ++channel) {
        const uint16_t* from = plane.nodes + static_cast<int64_t>(channel) * plane.n * plane.n;
        std::transform(from, from + nodes.size(), nodes.begin(),
                       [&](uint16_t half) { return static_cast<int16_t>(std::lrint(from_half(half) * scale)); });
        const int cells = plane.n - 1;
        const int n_blocks = (cells + QUAD_BLOCK - 1) / QUAD_BLOCK;
        for (int v = 0; v < cells; ++v) {
          for (int u = 0; u < cells; ++u) {
            const int16_t* at = nodes.data() + static_cast<int64_t>(v) * plane.n + u;
            const int16_t quad[4] = {at[0], at[1], at[plane.n], at[plane.n + 1]};
            std::memcpy(&quads[place_of_row(v, n_blocks) + place_in_row(u)], quad, sizeof quad);
          }
        }
        planes_.push_back({quads, n_blocks, plane.scale});
        quads += n_quads(plane);
      }
    }
  }
  return scale;
}

// column_scales: of every input, 0 where a pair has no second one; the others are the matrix's columns in order.
// out_scale: of a hidden layer's outputs, 0 for a last layer.
QuantisedLayer QuantisedField::add_layer(const Matrix& matrix, const std::vector<float>& column_scales,
                                         float out_scale) {
  const int n_pairs = static_cast<int>(column_scales.size() + 1) / 2, n_out = matrix.n_out;
  std::vector<float> wanted(static_cast<size_t>(n_out) * n_pairs * 2);
  float row_sum = 1e-12f, largest = 1e-12f;
  for (int o = 0; o < n_out; ++o) {
    float sum = 0.0f;
    int column = 0;
    for (size_t i = 0; i < column_scales.size(); ++i) {
      if (column_scales[i] == 0.0f) continue;
      const float weight = matrix.weights[static_cast<int64_t>(o) * matrix.n_in + column++] / column_scales[i];
      wanted[static_cast<size_t>(o) * n_pairs * 2 + i] = weight;
      sum += std::fabs(weight);
      largest = std::max(largest, std::fabs(weight));
    }
    if (column != matrix.n_in) throw std::invalid_argument("ranges: they do not fit the layers");
    row_sum = std::max(row_sum, sum);
  }
  float factor = std::min(kSumTop / row_sum, kWeightTop / largest);
  int shift = 0;
  if (out_scale > 0.0f) {
    shift = std::min(kMostShift, static_cast<int>(std::floor(std::log2(factor / out_scale))));
    if (shift < 0) throw std::invalid_argument("ranges: a layer's weights are too large for 16 bits");
    factor = std::ldexp(out_scale, shift);
  }
  const auto quantised = [&](int o, int i) {
    return o < n_out ? static_cast<int>(std::lrint(wanted[static_cast<size_t>(o) * n_pairs * 2 + i] * factor)) : 0;
  };
  const int groups = (n_out + QUANTISED_OUTPUTS - 1) / QUANTISED_OUTPUTS;
  auto& by_sample = weights_.emplace_back(static_cast<size_t>(groups) * n_pairs * QUANTISED_OUTPUTS);
  for (int o = 0; o < groups * QUANTISED_OUTPUTS; ++o) {
    for (int k = 0; k < n_pairs; ++k) {
      by_sample[(static_cast<size_t>(o / QUANTISED_OUTPUTS) * n_pairs + k) * QUANTISED_OUTPUTS +
                o % QUANTISED_OUTPUTS] = pair_of(quantised(o, 2 * k), quantised(o, 2 * k + 1));
    }
  }
  const int32_t* lanes_of_samples = by_sample.data();
  const auto stride = padded(n_out);
  auto& by_output = weights_.emplace_back(static_cast<size_t>(stride) * n_pairs);
  for (int o = 0; o < n_out; ++o) {
    for (int k = 0; k < n_pairs; ++k) by_output[k * stride + o] = pair_of(quantised(o, 2 * k), quantised(o, 2 * k + 1));
  }
  return {n_pairs, n_out, lanes_of_samples, by_output.data(), shift, 1.0f / factor};
}

// in_scale, out_scale: of the inputs and outputs, 1 for outputs that stay as they are.
ByteLayer QuantisedField::add_byte_layer(const Matrix& matrix, float in_scale, float out_scale) {
  constexpr int kGroup = 4 * QUAD_GROUP;
  const int n_out = matrix.n_out, n_quads = (matrix.n_in + kGroup - 1) / kGroup * QUAD_GROUP;
  const auto stride = padded(n_out);
  auto& scales = byte_scales_.emplace_back(static_cast<size_t>(stride));
  const int groups = (n_out + QUANTISED_OUTPUTS - 1) / QUANTISED_OUTPUTS;
  std::vector<int32_t> by_sample(static_cast<size_t>(groups) * n_quads * QUANTISED_OUTPUTS);
  std::vector<int32_t> by_output(static_cast<size_t>(stride) * n_quads);
  std::vector<float> row(static_cast<size_t>(n_quads) * 4);
  for (int o = 0; o < n_out; ++o) {
    std::copy_n(matrix.weights + static_cast<int64_t>(o) * matrix.n_in, matrix.n_in, row.begin());
    const float factor = byte_factor(row.data(), n_quads * 4);
    scales[o] = out_scale / (in_scale * factor);
    for (int k = 0; k < n_quads; ++k) {
      const int32_t quad = quad_of(row.data() + 4 * k, factor);
      by_output[k * stride + o] = quad;
      by_sample[(static_cast<size_t>(o / QUANTISED_OUTPUTS) * n_quads + k) * QUANTISED_OUTPUTS +
                o % QUANTISED_OUTPUTS] = quad;
    }
  }
  const int32_t* lanes_of_samples = weights_.emplace_back(std::move(by_sample)).data();
  const int32_t* lanes_of_outputs = weights_.emplace_back(std::move(by_output)).data();
  return {n_quads, n_out, lanes_of_samples, lanes_of_outputs, scales.data()};
}

QuantisedField::QuantisedField(const RendererTensors& tensors, const QuantisedRanges& ranges) {
  const size_t n_hidden = tensors.density.size() - 1, n_colour_hidden = tensors.colour.size() - 1;
  if (ranges.hidden.size() != n_hidden || ranges.colour_hidden.size() != n_colour_hidden) {
    throw std::invalid_argument("ranges: they do not fit the layers");
  }
  // Layers behind a ReLU may have bytes; the first ones stay in 16 bits, as values of both signs need them.
  net_.has_bytes = ranges.byte_reach > 0.0f && n_hidden > 0;
  const auto hidden_scale = [&](float range) {
    return net_.has_bytes ? byte_scale_of(range, ranges.byte_reach) : scale_of(range);
  };
  const float node_scale = add_planes(tensors);
  std::vector<float> encoded(tensors.planes.size() * tensors.n_channels, node_scale);
  if (encoded.size() > kMostEncoded) throw std::invalid_argument("planes: more encoded values than integer paths take");
  const float attended = hidden_scale(ranges.attended);
  net_.planes = planes_.data();
  net_.n_levels = static_cast<int>(tensors.planes.size()) / kPlanes;
  net_.n_channels = tensors.n_channels;
  net_.gated_scale = scale_of(ranges.gated);
  net_.attention[0] = add_layer(tensors.attention[0], encoded, attended);
  const Matrix& gate = tensors.attention[1];
  if (net_.has_bytes) {
    net_.byte_gate = add_byte_layer(gate, attended, 1.0f);
  } else {
    net_.attention[1] = add_layer(gate, std::vector<float>(gate.n_in, attended), 0.0f);
  }
  std::vector<float> inputs = encoded;
  inputs.resize((inputs.size() + 1) / 2 * 2, 0.0f);
  inputs.resize(inputs.size() + gate.n_out, net_.gated_scale);
  for (size_t i = 0; i <= n_hidden; ++i) {
    const Matrix& layer = tensors.density[i];
    const float out = i < n_hidden ? hidden_scale(ranges.hidden[i]) : 0.0f;
    if (i > 0 && net_.has_bytes) {
      net_.byte_density[i] = add_byte_layer(layer, inputs[0], i < n_hidden ? out : 1.0f);
    } else {
      net_.density[i] = add_layer(layer, inputs, out);
    }
    inputs.assign(layer.n_out, out);
  }
  inputs.assign(tensors.density.back().n_out - 1, scale_of(ranges.feature));
  inputs.resize(inputs.size() + tensors.n_directions, kNodeTop);  // the harmonics lie in -1..1
  inputs.resize(inputs.size() + tensors.n_appearance, scale_of(ranges.appearance));
  for (size_t i = 0; i <= n_colour_hidden; ++i) {
    net_.colour[i] = add_layer(tensors.colour[i], inputs, 0.0f);
    auto& scales = colour_scales_.emplace_back(inputs);
    scales.resize(padded(static_cast<int64_t>(scales.size()) + FIELD_ALIGN), 0.0f);
    if (i < n_colour_hidden) inputs.assign(tensors.colour[i].n_out, scale_of(ranges.colour_hidden[i]));
    net_.colour_scales[i] = scales.data();
  }
}

}  // namespace synctalk
