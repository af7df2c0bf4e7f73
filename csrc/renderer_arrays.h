// The tensors of a renderer as they come from Python, checked.
#pragma once

#include <pybind11/stl.h>

#include <cmath>
#include <memory>

#include "arrays.h"
#include "levels.h"
#include "march_settings.h"
#include "renderer.h"

namespace synctalk {

using Arrays = std::vector<py::array>;

// Layers of a network from n_in to n_out inputs (0: any).
inline std::vector<Matrix> network_of(const Arrays& arrays, const char* name, py::ssize_t n_in, py::ssize_t n_out) {
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

inline std::vector<NodePlane> planes_of(const Arrays& arrays, const std::vector<double>& scales, int* n_channels) {
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

// Borrowed: valid while the arrays are.
inline RendererTensors renderer_tensors(const std::vector<double>& scales, const Arrays& planes,
                                        const Arrays& attention, const Arrays& density, const Arrays& colour,
                                        const py::array& occupancy, int resolution, const py::array& box_min,
                                        const py::array& box_max, float step, int max_samples, float density_scale,
                                        float max_log_density, int condition, int appearance, int direction_degree,
                                        bool is_sigmoid, bool is_deferred) {
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
  return tensors;
}

// Defines __init__ of a class that is made of a renderer's tensors and settings of its own.
template <class Class, class... Settings, class... Names>
void define_init(Class& of, std::unique_ptr<typename Class::type> (*make)(const RendererTensors&, Settings...),
                 const Names&... names) {
  of.def(py::init([make](const std::vector<double>& scales, const Arrays& planes, const Arrays& attention,
                         const Arrays& density, const Arrays& colour, const py::array& occupancy, int resolution,
                         const py::array& box_min, const py::array& box_max, float step, int max_samples,
                         float density_scale, float max_log_density, int condition, int appearance,
                         int direction_degree, bool is_sigmoid, bool is_deferred, Settings... settings) {
           return make(renderer_tensors(scales, planes, attention, density, colour, occupancy, resolution, box_min,
                                        box_max, step, max_samples, density_scale, max_log_density, condition,
                                        appearance, direction_degree, is_sigmoid, is_deferred),
                       settings...);
         }),
         py::arg("scales"), py::arg("planes"), py::arg("attention"), py::arg("density"), py::arg("colour"),
         py::arg("occupancy"), py::arg("resolution"), py::arg("box_min"), py::arg("box_max"), py::arg("step"),
         py::arg("max_samples"), py::arg("density_scale"), py::arg("max_log_density"), py::arg("condition"),
         py::arg("appearance"), py::arg("direction_degree"), py::arg("is_sigmoid"), py::arg("is_deferred"), names...);
}

}  // namespace synctalk
