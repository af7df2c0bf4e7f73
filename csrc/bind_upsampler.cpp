// Bindings of the upsampler: check, borrow, release the GIL, call.
#include <pybind11/stl.h>

#include <memory>

#include "arrays.h"
#include "upsampler.h"

namespace synctalk {
namespace {

constexpr size_t kMaxLevels = 4;

// Channels of each layer's inputs and outputs, from those of the levels: two layers a level, the way back, the details.
std::vector<std::pair<int, int>> widths_of(const std::vector<int>& channels) {
  std::vector<std::pair<int, int>> widths;
  int before = UPSAMPLER_PIXEL;
  for (const int n : channels) {
    widths.insert(widths.end(), {{before, n}, {n, n}});
    before = n;
  }
  for (size_t i = channels.size() - 1; i > 0; --i) widths.emplace_back(channels[i], channels[i - 1]);
  widths.emplace_back(channels[0], UPSAMPLER_OUT);
  return widths;
}

std::unique_ptr<Upsampler> make_upsampler(const std::vector<py::array>& weights, const std::vector<float>& ranges) {
  const size_t n_levels = weights.size() / 3;
  if (weights.empty() || weights.size() % 3 != 0 || n_levels > kMaxLevels) {
    throw py::value_error("weights: expected 3 layers for each of 1 to " + std::to_string(kMaxLevels) +
                          " levels, got " + std::to_string(weights.size()));
  }
  std::vector<int> channels;
  for (size_t i = 0; i < n_levels; ++i) {
    const auto n = axis_length(weights[2 * i], "weights", 4, 0);
    if (n < FIELD_ALIGN || n % FIELD_ALIGN != 0) {
      throw py::value_error("weights: expected layers of a multiple of " + std::to_string(FIELD_ALIGN) +
                            " channels, got " + std::to_string(n));
    }
    channels.push_back(static_cast<int>(n));
  }
  std::vector<Upsampler::Layer> layers;
  for (const auto& [n_in, n_out] : widths_of(channels)) {
    layers.push_back({input<float>(weights[layers.size()], "weights", {n_out, n_in, 3, 3}), n_out, n_in});
  }
  return std::make_unique<Upsampler>(layers, ranges);
}

void apply(const Upsampler& upsampler, const py::array& small, const py::array& modulation, py::array out) {
  const auto height = axis_length(small, "small", 3, 0), width = small.shape(1);
  const float* picture = input<float>(small, "small", {height, width, UPSAMPLER_PIXEL});
  const float* driven = input<float>(modulation, "modulation", {upsampler.n_modulation()});
  float* larger = output<float>(out, "out", {2 * height, 2 * width, UPSAMPLER_PIXEL});
  const int multiple = upsampler.multiple();
  if (height < 1 || width < 1 || height % multiple != 0 || width % multiple != 0) {
    throw py::value_error("small: expected sides that are multiples of " + std::to_string(multiple) + ", got " +
                          std::to_string(width) + " x " + std::to_string(height));
  }
  py::gil_scoped_release release;
  upsampler.apply(picture, static_cast<int>(height), static_cast<int>(width), driven, larger);
}

}  // namespace

void bind_upsampler(py::module_& m) {
  py::class_<Upsampler>(
      m, "Upsampler",
      "The restorer, a U-Net that makes a picture twice as large; weights: float32 [out, in, 3, 3] of "
      "each layer\n(UpsamplerSpec.shapes). With ranges, the largest outputs of all layers but the "
      "last, it computes in\n8-bit integers.")
      .def(py::init(&make_upsampler), py::arg("weights"), py::arg("ranges") = std::vector<float>())
      .def("apply", &apply, py::arg("small"), py::arg("modulation"), py::arg("out"),
           "Premultiplied RGBA [H, W, 4] in 0..1, gains and shifts of all levels' channels -> out [2 H, 2 W, 4].");
}

}  // namespace synctalk
