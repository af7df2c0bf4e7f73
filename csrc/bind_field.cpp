// Bindings of the fused field: check, borrow, release the GIL, call.
#include <pybind11/stl.h>

#include "arrays.h"
#include "field.h"
#include "levels.h"

namespace synctalk {

void bind_renderer(py::module_& m);

namespace {

using Arrays = std::vector<py::array>;

Field make_field(const py::array& levels, int channels, int condition, int expression, int attention_hidden,
                 bool is_sigmoid, int density_hidden, int density_layers, int feature) {
  const FieldShape shape{levels_of(levels), channels,       condition,      expression, attention_hidden,
                         is_sigmoid,        density_hidden, density_layers, feature};
  if (shape.levels.empty()) throw py::value_error("levels: expected at least one");
  if (std::min({channels, condition, expression, attention_hidden, density_hidden, density_layers, feature}) < 1) {
    throw py::value_error("Field: expected positive widths");
  }
  if (density_layers >= FIELD_MAX_LAYERS) {
    throw py::value_error("density_layers: expected at most " + std::to_string(FIELD_MAX_LAYERS - 1));
  }
  check_levels(shape.levels, shape.n_entries());
  return Field(shape);
}

FieldInputs inputs_of(const Field& field, const py::array& positions, const py::array& groups,
                      const py::array& condition, const py::array& expression, const py::array& tables,
                      const Arrays& weights) {
  const FieldShape& shape = field.shape();
  const auto n = axis_length(positions, "positions", 2, 0), n_frames = axis_length(condition, "condition", 2, 0);
  FieldInputs inputs{input<float>(positions, "positions", {n, 3}),
                     input<int32_t>(groups, "groups", {n_frames + 1}),
                     static_cast<int>(n_frames),
                     input<float>(condition, "condition", {n_frames, shape.condition}),
                     input<float>(expression, "expression", {n_frames, shape.expression}),
                     input<float>(tables, "tables", {kPlanes, shape.n_entries(), shape.n_channels}),
                     {}};
  bool is_right = inputs.groups[0] == 0 && inputs.groups[n_frames] == n;
  for (py::ssize_t i = 0; is_right && i < n_frames; ++i) is_right = inputs.groups[i] <= inputs.groups[i + 1];
  if (!is_right) throw py::value_error("groups: expected to rise from 0 to M, the number of samples");
  const auto shapes = shape.layers();
  if (weights.size() != shapes.size()) {
    throw py::value_error("weights: expected " + std::to_string(shapes.size()) + " layers, got " +
                          std::to_string(weights.size()));
  }
  for (size_t i = 0; i < shapes.size(); ++i) {
    inputs.weights.push_back(input<float>(weights[i], "weights", {shapes[i].first, shapes[i].second}));
  }
  return inputs;
}

void forward(const Field& field, const py::array& positions, const py::array& groups, const py::array& condition,
             const py::array& expression, const py::array& tables, const Arrays& weights, py::array log_density,
             py::array feature) {
  const FieldInputs inputs = inputs_of(field, positions, groups, condition, expression, tables, weights);
  const auto n = positions.shape(0);
  float* density_out = output<float>(log_density, "log_density", {n});
  float* feature_out = output<float>(feature, "feature", {n, field.shape().feature});
  py::gil_scoped_release release;
  field.forward(inputs, density_out, feature_out);
}

void backward(const Field& field, const py::array& positions, const py::array& groups, const py::array& condition,
              const py::array& expression, const py::array& tables, const Arrays& weights,
              const py::array& d_log_density, const py::array& d_feature, py::array d_condition, py::array d_expression,
              py::array d_tables, Arrays d_weights) {
  const FieldInputs inputs = inputs_of(field, positions, groups, condition, expression, tables, weights);
  const FieldShape& shape = field.shape();
  const auto n = positions.shape(0), n_frames = condition.shape(0);
  const float* from_density = input<float>(d_log_density, "d_log_density", {n});
  const float* from_feature = input<float>(d_feature, "d_feature", {n, shape.feature});
  FieldGradients gradients{output<float>(d_condition, "d_condition", {n_frames, shape.condition}),
                           output<float>(d_expression, "d_expression", {n_frames, shape.expression}),
                           output<float>(d_tables, "d_tables", {kPlanes, shape.n_entries(), shape.n_channels}),
                           {}};
  const auto shapes = shape.layers();
  if (d_weights.size() != shapes.size()) {
    throw py::value_error("d_weights: expected " + std::to_string(shapes.size()) + " layers");
  }
  for (size_t i = 0; i < shapes.size(); ++i) {
    gradients.weights.push_back(output<float>(d_weights[i], "d_weights", {shapes[i].first, shapes[i].second}));
  }
  py::gil_scoped_release release;
  field.backward(inputs, from_density, from_feature, gradients);
}

}  // namespace

void bind_field(py::module_& m) {
  bind_renderer(m);
  py::class_<Field>(
      m, "Field",
      "The fused field for training: grid, attention and density network in one pass.\n\n"
      "weights: the attention's two layers, then the density network's, each [out, in]. Samples are sorted\n"
      "by frame; groups int32 [n_frames + 1] are the offsets of each frame's samples.")
      .def(py::init(&make_field), py::arg("levels"), py::arg("channels"), py::arg("condition"), py::arg("expression"),
           py::arg("attention_hidden"), py::arg("is_sigmoid"), py::arg("density_hidden"), py::arg("density_layers"),
           py::arg("feature"))
      .def("forward", &forward, py::arg("positions"), py::arg("groups"), py::arg("condition"), py::arg("expression"),
           py::arg("tables"), py::arg("weights"), py::arg("log_density"), py::arg("feature"),
           "Writes log_density [M] and feature [M, F].")
      .def("backward", &backward, py::arg("positions"), py::arg("groups"), py::arg("condition"), py::arg("expression"),
           py::arg("tables"), py::arg("weights"), py::arg("d_log_density"), py::arg("d_feature"),
           py::arg("d_condition"), py::arg("d_expression"), py::arg("d_tables"), py::arg("d_weights"),
           "Overwrites the gradients; equal bits for an equal number of threads.");
}

}  // namespace synctalk
