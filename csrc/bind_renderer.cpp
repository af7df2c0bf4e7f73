// Bindings of the run-time renderer: check, borrow, release the GIL, call.
#include <pybind11/stl.h>

#include <cmath>
#include <memory>

#include "arrays.h"
#include "levels.h"
#include "march_settings.h"
#include "paste.h"
#include "renderer.h"

namespace synctalk {
namespace {

using Arrays = std::vector<py::array>;

// Layers of a network from n_in to n_out inputs (0: any).
std::vector<Matrix> network_of(const Arrays& arrays, const char* name, py::ssize_t n_in, py::ssize_t n_out) {
  if (arrays.empty() || arrays.size() > FIELD_MAX_LAYERS) {
    throw py::value_error(std::string(name) + ": expected 1 to " + std::to_string(FIELD_MAX_LAYERS) + " layers");
  }
  std::vector<Matrix> layers;
  for (size_t i = 0; i < arrays.size(); ++i) {
    auto wide = axis_length(arrays[i], name, 2, 0);
    if (n_out > 0 && i + 1 == arrays.size()) wide = n_out;
    const float* weights = input<float>(arrays[i], name, {wide, n_in});
    layers.push_back({weights, static_cast<int>(wide), static_cast<int>(n_in)});
    n_in = wide;
  }
  return layers;
}

std::vector<NodePlane> planes_of(const Arrays& arrays, const std::vector<double>& scales, int* n_channels) {
  if (scales.empty() || arrays.size() != kPlanes * scales.size()) {
    throw py::value_error("planes: expected 3 for each of the scales, got " + std::to_string(arrays.size()));
  }
  *n_channels = static_cast<int>(axis_length(arrays[0], "planes", 3, 0));
  std::vector<NodePlane> planes;
  for (size_t i = 0; i < arrays.size(); ++i) {
    const py::array& array = arrays[i];
    const double scale = scales[i % scales.size()];
    if (!(scale >= 0.0 && scale < 16384.0)) throw py::value_error("scales: expected 0 to 16384");
    const auto n = static_cast<py::ssize_t>(std::floor(static_cast<float>(scale) + 0.5f)) + 2;
    const bool is_half = array.dtype().kind() == 'f' && array.itemsize() == 2 && (array.flags() & py::array::c_style);
    if (!is_half || array.ndim() != 3 || array.shape(0) != *n_channels || array.shape(1) != n || array.shape(2) != n) {
      throw py::value_error("planes: expected C-contiguous float16 [" + std::to_string(*n_channels) + ", " +
                            std::to_string(n) + ", " + std::to_string(n) + "] for scale " + std::to_string(scale) +
                            ", got " + shape_text(array.shape(), static_cast<size_t>(array.ndim())));
    }
    planes.push_back({static_cast<const uint16_t*>(array.data()), static_cast<int>(n), static_cast<float>(scale)});
  }
  return planes;
}

// Order: attended, gated, the density network's hidden layers, feature, appearance, the colour network's hidden layers.
QuantisedRanges ranges_of(const std::vector<float>& values, size_t n_hidden, size_t n_colour_hidden) {
  if (values.size() != 4 + n_hidden + n_colour_hidden) {
    throw py::value_error("ranges: expected " + std::to_string(4 + n_hidden + n_colour_hidden) + " values, got " +
                          std::to_string(values.size()));
  }
  const auto hidden = values.begin() + 2, feature = hidden + static_cast<std::ptrdiff_t>(n_hidden);
  return {values[0], values[1], {hidden, feature}, feature[0], feature[1], {feature + 2, values.end()}};
}

std::unique_ptr<Renderer> make_renderer(const std::vector<double>& scales, const Arrays& planes,
                                        const Arrays& attention, const Arrays& density, const Arrays& colour,
                                        const py::array& occupancy, int resolution, const py::array& box_min,
                                        const py::array& box_max, float step, int max_samples, float density_scale,
                                        float max_log_density, int condition, int appearance, int direction_degree,
                                        bool is_sigmoid, bool is_deferred, const std::vector<float>& ranges) {
  RendererTensors tensors{};
  tensors.planes = planes_of(planes, scales, &tensors.n_channels);
  const auto n_encoded = static_cast<py::ssize_t>(planes.size()) * tensors.n_channels;
  if (attention.size() != 2) throw py::value_error("attention: expected two layers");
  tensors.attention = network_of(attention, "attention", n_encoded, 0);
  const int n_gates = tensors.attention[1].n_out;
  if (condition < 1 || condition >= n_gates) throw py::value_error("condition: expected 1 to the number of gates");
  if (appearance < 0 || direction_degree < 1 || direction_degree > 4) {
    throw py::value_error("direction_degree: expected 1 to 4, and appearance 0 or more");
  }
  tensors.density = network_of(density, "density", n_encoded + n_gates, 0);
  const int n_feature = tensors.density.back().n_out - 1;
  if (n_feature < 1) throw py::value_error("density: expected two outputs at least");
  tensors.n_directions = direction_degree * direction_degree;
  tensors.n_appearance = appearance;
  tensors.colour = network_of(colour, "colour", n_feature + tensors.n_directions + appearance, 3);
  tensors.march = march_of(input<float>(box_min, "box_min", {3}), input<float>(box_max, "box_max", {3}), resolution,
                           step, max_samples, input<uint8_t>(occupancy, "occupancy", {occupancy_bytes(resolution)}));
  tensors.is_sigmoid = is_sigmoid;
  tensors.is_deferred = is_deferred;
  tensors.condition = condition;
  tensors.density_scale = density_scale;
  tensors.max_log_density = max_log_density;
  if (ranges.empty()) return std::make_unique<Renderer>(tensors);
  const QuantisedRanges known = ranges_of(ranges, density.size() - 1, colour.size() - 1);
  return std::make_unique<Renderer>(tensors, &known);
}

void render(const Renderer& renderer, const py::array& rotation, const py::array& translation, float focal,
            float centre_x, float centre_y, int x0, int y0, int x1, int y1, const py::array& condition,
            const py::array& expression, const py::array& appearance, py::array out) {
  const auto height = axis_length(out, "out", 3, 0), width = out.shape(1);
  float* rgba = output<float>(out, "out", {height, width, 4});
  if (!(0 <= x0 && x0 <= x1 && x1 <= width && 0 <= y0 && y0 <= y1 && y1 <= height)) {
    throw py::value_error("x0, y0, x1, y1: expected a rectangle inside the picture of " + std::to_string(width) +
                          " x " + std::to_string(height));
  }
  if (!(focal > 0.0f) || !std::isfinite(focal)) throw py::value_error("focal: expected to be positive");
  const float* turn = input<float>(rotation, "rotation", {3, 3});
  const float* shift = input<float>(translation, "translation", {3});
  View view{{}, {shift[0], shift[1], shift[2]}, focal, centre_x, centre_y};
  for (int i = 0; i < 9; ++i) view.rotation[i / 3][i % 3] = turn[i];
  const float* condition_at = input<float>(condition, "condition", {renderer.n_condition()});
  const float* expression_at = input<float>(expression, "expression", {renderer.n_expression()});
  const float* appearance_at = input<float>(appearance, "appearance", {renderer.n_appearance()});
  const int rectangle[4] = {x0, y0, x1, y1};
  py::gil_scoped_release release;
  renderer.render(view, static_cast<int>(width), rectangle, condition_at, expression_at, appearance_at, rgba);
}

void paste_head(const py::array& head, const py::array& plate, py::array out) {
  const auto height = axis_length(head, "head", 3, 0), width = head.shape(1);
  const float* rgba = input<float>(head, "head", {height, width, 4});
  const uint8_t* below = input<uint8_t>(plate, "plate", {height, width, 3});
  uint8_t* picture = output<uint8_t>(out, "out", {height, width, 3});
  py::gil_scoped_release release;
  paste(rgba, below, static_cast<int64_t>(height) * width, picture);
}

void query(const Renderer& renderer, const py::array& positions, const py::array& condition,
           const py::array& expression, py::array log_density, py::array feature) {
  const auto n = axis_length(positions, "positions", 2, 0);
  const float* at = input<float>(positions, "positions", {n, 3});
  const float* condition_at = input<float>(condition, "condition", {renderer.n_condition()});
  const float* expression_at = input<float>(expression, "expression", {renderer.n_expression()});
  float* density_out = output<float>(log_density, "log_density", {n});
  float* feature_out = output<float>(feature, "feature", {n, renderer.n_feature()});
  py::gil_scoped_release release;
  renderer.query(at, n, condition_at, expression_at, density_out, feature_out);
}

}  // namespace

void bind_renderer(py::module_& m) {
  m.def("paste", &paste_head, py::arg("head"), py::arg("plate"), py::arg("out"),
        "Puts a head (premultiplied RGBA [H, W, 4]) over a plate [H, W, 3] of 8-bit RGB.");
  py::class_<Renderer>(
      m, "Renderer",
      "The head of one avatar, rendered on the CPU; see docs/formats.md for the tensors.\n\n"
      "scales [levels]; planes: float16 [C, n, n], plane-major. Results do not depend on the number of\n"
      "threads; calls from several threads at once are fine. ranges: of the activations, to compute in 16-bit "
      "integers\n"
      "(attended, gated, hidden of density, feature, appearance, hidden of colour); without, in float32.")
      .def(py::init(&make_renderer), py::arg("scales"), py::arg("planes"), py::arg("attention"), py::arg("density"),
           py::arg("colour"), py::arg("occupancy"), py::arg("resolution"), py::arg("box_min"), py::arg("box_max"),
           py::arg("step"), py::arg("max_samples"), py::arg("density_scale"), py::arg("max_log_density"),
           py::arg("condition"), py::arg("appearance"), py::arg("direction_degree"), py::arg("is_sigmoid"),
           py::arg("is_deferred"), py::arg("ranges") = std::vector<float>())
      .def("render", &render, py::arg("rotation"), py::arg("translation"), py::arg("focal"), py::arg("centre_x"),
           py::arg("centre_y"), py::arg("x0"), py::arg("y0"), py::arg("x1"), py::arg("y1"), py::arg("condition"),
           py::arg("expression"), py::arg("appearance"), py::arg("out"),
           "Writes premultiplied RGBA into the rectangle [x0, x1) x [y0, y1) of out [H, W, 4].")
      .def("query", &query, py::arg("positions"), py::arg("condition"), py::arg("expression"), py::arg("log_density"),
           py::arg("feature"), "Evaluates positions [M, 3] in 0..1 of the box.");
}

}  // namespace synctalk
