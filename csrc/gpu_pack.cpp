#include "gpu_pack.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace synctalk::gpu {
namespace {

void check_room(const std::string& what, int n, int most) {
  if (n <= most) return;
  throw std::invalid_argument("the kernels for GPUs have room for " + std::to_string(most) + " " + what + ", got " +
                              std::to_string(n) + ": use backend native-cpu for this avatar");
}

void check_layers(const std::vector<Matrix>& layers, const char* name) {
  for (const Matrix& layer : layers) check_room(std::string(name) + " outputs", layer.n_out, MAX_WIDTH);
}

}  // namespace

GpuPack::GpuPack(const RendererTensors& tensors) : net{} {
  const int n_gates = tensors.attention[1].n_out, n_feature = tensors.density.back().n_out - 1;
  net.n_encoded = static_cast<int>(tensors.planes.size()) * tensors.n_channels;
  check_room("columns of the encoding", net.n_encoded, MAX_WIDTH);
  check_layers(tensors.attention, "attention");
  check_layers(tensors.density, "density");
  check_layers(tensors.colour, "colour");
  check_room("appearance values", tensors.n_appearance, MAX_APPEARANCE);
  check_room("density layers", static_cast<int>(tensors.density.size()), MAX_LAYERS);
  check_room("colour layers", static_cast<int>(tensors.colour.size()), MAX_LAYERS);
  net.march = tensors.march;
  net.density_scale = tensors.density_scale;
  net.max_log_density = tensors.max_log_density;
  net.is_deferred = tensors.is_deferred;
  net.is_sigmoid = tensors.is_sigmoid;
  net.n_gates = n_gates;
  net.n_feature = n_feature;
  net.n_directions = tensors.n_directions;
  net.n_appearance = tensors.n_appearance;

  const auto whole = [this](const Matrix& m) { return add_matrix(m, 0, m.n_in, 0); };
  std::transform(tensors.attention.begin(), tensors.attention.end(), net.attention, whole);
  net.encoded = add_matrix(tensors.density[0], 0, net.n_encoded, 0);
  net.gated = add_matrix(tensors.density[0], net.n_encoded, n_gates, 0);
  std::transform(tensors.density.begin() + 1, tensors.density.end(), net.density, whole);
  net.n_density = static_cast<int>(tensors.density.size()) - 1;
  net.feature = add_matrix(tensors.colour[0], 0, n_feature, 1);
  net.view = add_matrix(tensors.colour[0], n_feature, net.n_directions + net.n_appearance, 0);
  std::transform(tensors.colour.begin() + 1, tensors.colour.end(), net.colour, whole);
  net.n_colour = static_cast<int>(tensors.colour.size()) - 1;

  add_planes(tensors);
  const int64_t g = net.march.resolution;
  occupancy.assign(tensors.march.occupancy, tensors.march.occupancy + (g * g * g + 7) / 8);
  Bricks found = bricks_of(tensors.march);
  bricks = std::move(found.bricks);
  std::copy_n(found.half, 3, net.brick_half);
  net.n_bricks = static_cast<int>(bricks.size());
  net.march.occupancy = occupancy.data();
  net.quads = quads.data();
  net.words = words.data();
  net.floats = floats.data();
  net.bricks = bricks.data();
}

void GpuPack::add_planes(const RendererTensors& tensors) {
  const int n_levels = static_cast<int>(tensors.planes.size()) / kPlanes;
  for (int p = 0; p < static_cast<int>(tensors.planes.size()); ++p) {
    const NodePlane& plane = tensors.planes[static_cast<size_t>(p)];
    const int axes = p / n_levels, n = plane.n;
    for (int channel = 0; channel < tensors.n_channels; ++channel) {
      if (quads.size() > UINT32_MAX) throw std::invalid_argument("planes: more than 2^32 cells");
      net.columns[p * tensors.n_channels + channel] = {static_cast<uint32_t>(quads.size()), n - 1, plane.scale,
                                                       static_cast<uint8_t>(column_axis(axes)),
                                                       static_cast<uint8_t>(row_axis(axes))};
      const uint16_t* nodes = plane.nodes + static_cast<int64_t>(channel) * n * n;
      for (int v = 0; v + 1 < n; ++v) {
        for (int u = 0; u + 1 < n; ++u) {
          const uint16_t* at = nodes + static_cast<int64_t>(v) * n + u;
          quads.push_back(at[0] | uint64_t{at[1]} << 16 | uint64_t{at[n]} << 32 | uint64_t{at[n + 1]} << 48);
        }
      }
    }
  }
}

// Columns [first_input, first_input + n_in) of a layer, behind n_before columns of zeros.
GpuMatrix GpuPack::add_matrix(const Matrix& layer, int first_input, int n_in, int n_before) {
  const auto weight = [&](int output, int input) {
    const int k = input - n_before;
    const bool is_in = output < layer.n_out && k >= 0 && k < n_in;
    return is_in ? layer.weights[static_cast<int64_t>(output) * layer.n_in + first_input + k] : 0.0f;
  };
  const GpuMatrix matrix{n_before + n_in,
                         layer.n_out,
                         padded_inputs(n_before + n_in) / STEP_INPUTS,
                         (layer.n_out + TILE_OUTPUTS - 1) / TILE_OUTPUTS,
                         static_cast<int64_t>(words.size()),
                         static_cast<int64_t>(floats.size())};
  for (int word = 0; word < matrix.n_words(); ++word) {
    const WeightPlace at = place_of_word(word, matrix.n_tiles);
    words.push_back(pack_halves(weight(at.output, at.input), weight(at.output, at.input + 1)));
  }
  for (int output = 0; output < layer.n_out; ++output) {
    for (int input = 0; input < matrix.n_in; ++input) floats.push_back(weight(output, input));
  }
  return matrix;
}

int widest_layer(const GpuNet& net) {
  int widest = std::max({1 + net.n_feature, net.n_gates, net.attention[0].n_out, net.encoded.n_out, net.feature.n_out});
  for (int i = 0; i < net.n_density; ++i) widest = std::max(widest, net.density[i].n_out);
  for (int i = 0; i < net.n_colour; ++i) widest = std::max(widest, net.colour[i].n_out);
  return widest;
}

GpuFrame frame_of(const GpuNet& net, int n_condition, const GpuInputs& inputs, int width, int height) {
  GpuFrame frame{};
  frame.view = inputs.view;
  frame.width = width;
  frame.height = height;
  std::copy_n(inputs.condition, n_condition, frame.drive);
  std::copy_n(inputs.expression, net.n_gates - n_condition, frame.drive + n_condition);
  std::copy_n(inputs.appearance, net.n_appearance, frame.appearance);
  return frame;
}

}  // namespace synctalk::gpu
