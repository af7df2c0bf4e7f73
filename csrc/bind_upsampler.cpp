// Bindings of the upsampler: check, borrow, release the GIL, call.
#include <pybind11/stl.h>

#include <memory>

#include "arrays.h"
#include "upsampler.h"

namespace synctalk {
namespace {

std::unique_ptr<Upsampler> make_upsampler(const std::vector<py::array>& weights, const std::vector<float>& ranges) {
  if (weights.empty() || weights.size() > FIELD_MAX_LAYERS) {
    throw py::value_error("weights: expected 1 to " + std::to_string(FIELD_MAX_LAYERS) + " layers");
  }
  std::vector<Upsampler::Layer> layers;
  py::ssize_t n_in = UPSAMPLER_PIXEL;
  for (size_t i = 0; i < weights.size(); ++i) {
    const bool is_last = i + 1 == weights.size();
    const auto n_out = is_last ? UPSAMPLER_OUT : axis_length(weights[i], "weights", 4, 0);
    if (n_out < FIELD_ALIGN || n_out % FIELD_ALIGN != 0) {
      throw py::value_error("weights: expected layers of a multiple of " + std::to_string(FIELD_ALIGN) +
                            " channels, got " + std::to_string(n_out));
    }
    const float* at = input<float>(weights[i], "weights", {n_out, n_in, 3, 3});
    layers.push_back({at, static_cast<int>(n_out), static_cast<int>(n_in)});
    n_in = n_out;
  }
  return std::make_unique<Upsampler>(layers, ranges);
}

void apply(const Upsampler& upsampler, const py::array& small, py::array out) {
  const auto height = axis_length(small, "small", 3, 0), width = small.shape(1);
  const float* picture = input<float>(small, "small", {height, width, UPSAMPLER_PIXEL});
  float* larger = output<float>(out, "out", {2 * height, 2 * width, UPSAMPLER_PIXEL});
  if (height < 1 || width < 1) throw py::value_error("small: expected one pixel at least");
  py::gil_scoped_release release;
  upsampler.apply(picture, static_cast<int>(height), static_cast<int>(width), larger);
}

}  // namespace

void bind_upsampler(py::module_& m) {
  py::class_<Upsampler>(m, "Upsampler",
                        "Makes a picture twice as large; weights: float32 [out, in, 3, 3] of each layer, 4 channels "
                        "first, 16 last\n(row, column, channel of the four pixels that a pixel becomes). With ranges, "
                        "the largest outputs of\n"
                        "all layers but the last, it computes in 8-bit integers.")
      .def(py::init(&make_upsampler), py::arg("weights"), py::arg("ranges") = std::vector<float>())
      .def("apply", &apply, py::arg("small"), py::arg("out"),
           "Premultiplied RGBA [H, W, 4] in 0..1 -> out [2 H, 2 W, 4].");
}

}  // namespace synctalk
