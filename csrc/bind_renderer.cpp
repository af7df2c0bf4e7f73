// Bindings of the run-time renderer: check, borrow, release the GIL, call.
#include "paste.h"
#include "renderer_arrays.h"

namespace synctalk {
namespace {

// Order: attended, gated, the density network's hidden layers, feature, appearance, the colour network's hidden layers.
QuantisedRanges ranges_of(const std::vector<float>& values, size_t n_hidden, size_t n_colour_hidden, float byte_reach) {
  if (values.size() != 4 + n_hidden + n_colour_hidden) {
    throw py::value_error("ranges: expected " + std::to_string(4 + n_hidden + n_colour_hidden) + " values, got " +
                          std::to_string(values.size()));
  }
  const auto hidden = values.begin() + 2, feature = hidden + static_cast<std::ptrdiff_t>(n_hidden);
  return {values[0], values[1], {hidden, feature}, feature[0], feature[1], {feature + 2, values.end()}, byte_reach};
}

std::unique_ptr<Renderer> make_renderer(const RendererTensors& tensors, std::vector<float> ranges, float byte_reach) {
  if (!(byte_reach >= 0.0f && byte_reach <= 1.0f)) throw py::value_error("byte_reach: expected 0 to 1");
  if (ranges.empty() && byte_reach > 0.0f) throw py::value_error("byte_reach: ranges are needed, too");
  if (ranges.empty()) return std::make_unique<Renderer>(tensors);
  const QuantisedRanges known = ranges_of(ranges, tensors.density.size() - 1, tensors.colour.size() - 1, byte_reach);
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
  py::class_<Renderer> renderer(
      m, "Renderer",
      "The head of one avatar, rendered on the CPU; see docs/formats.md for the tensors.\n\n"
      "scales [levels]; planes: float16 [C, n, n], plane-major. Results do not depend on the number of\n"
      "threads; calls from several threads at once are fine. ranges: of the activations, to compute in 16-bit "
      "integers\n"
      "(attended, gated, hidden of density, feature, appearance, hidden of colour); without, in float32. byte_reach: "
      "the share\nof a range that 7 bits span in layers behind a ReLU; 0: 16 bits there, too.");
  define_init(renderer, &make_renderer, py::arg("ranges") = std::vector<float>(), py::arg("byte_reach") = 0.0f);
  renderer
      .def("render", &render, py::arg("rotation"), py::arg("translation"), py::arg("focal"), py::arg("centre_x"),
           py::arg("centre_y"), py::arg("x0"), py::arg("y0"), py::arg("x1"), py::arg("y1"), py::arg("condition"),
           py::arg("expression"), py::arg("appearance"), py::arg("out"),
           "Writes premultiplied RGBA into the rectangle [x0, x1) x [y0, y1) of out [H, W, 4].")
      .def("query", &query, py::arg("positions"), py::arg("condition"), py::arg("expression"), py::arg("log_density"),
           py::arg("feature"), "Evaluates positions [M, 3] in 0..1 of the box.");
}

}  // namespace synctalk
