// Bindings of threads, instruction sets, grids, marching and compositing: check, borrow, release the GIL, call.
#include <pybind11/stl.h>

#include <cmath>
#include <limits>
#include <optional>

#include "arrays.h"
#include "composite.h"
#include "grid.h"
#include "levels.h"
#include "march_settings.h"
#include "simd.h"
#include "threads.h"

namespace synctalk {
namespace {

constexpr int64_t kMaxSamples = std::numeric_limits<int32_t>::max();

// The grid of tables [3, E, C] and its levels, which must outlive it.
Grid grid_of(const py::array& tables, const std::vector<Level>& levels) {
  const auto n_entries = axis_length(tables, "tables", 3, 1), n_channels = tables.shape(2);
  check_array<float>(tables, "tables", {kPlanes, n_entries, n_channels});
  check_levels(levels, n_entries);
  return {levels.data(), static_cast<int>(levels.size()), n_entries, static_cast<int>(n_channels)};
}

void encode(const py::array& positions, const py::array& tables, const py::array& levels, py::array out) {
  const auto table = levels_of(levels);
  const Grid grid = grid_of(tables, table);
  const auto n = axis_length(positions, "positions", 2, 0);
  const float* at = input<float>(positions, "positions", {n, 3});
  float* to = output<float>(out, "out", {n, grid.width()});
  const float* entries = static_cast<const float*>(tables.data());
  py::gil_scoped_release release;
  grid_encode(grid, entries, at, n, to);
}

void encode_backward(const py::array& positions, const py::array& tables, const py::array& d_out,
                     const py::array& levels, py::array d_tables, std::optional<py::array> d_positions) {
  const auto table = levels_of(levels);
  const Grid grid = grid_of(tables, table);
  const auto n = axis_length(positions, "positions", 2, 0);
  const float* at = input<float>(positions, "positions", {n, 3});
  const float* from = input<float>(d_out, "d_out", {n, grid.width()});
  float* d_entries = output<float>(d_tables, "d_tables", {kPlanes, grid.n_entries, grid.n_channels});
  float* d_at = d_positions ? output<float>(*d_positions, "d_positions", {n, 3}) : nullptr;
  const float* entries = static_cast<const float*>(tables.data());
  py::gil_scoped_release release;
  grid_encode_backward(grid, entries, at, from, n, d_entries, d_at);
}

void unroll(const py::array& tables, const py::array& level, py::array out) {
  const auto n_entries = axis_length(tables, "tables", 2, 0), n_channels = tables.shape(1);
  const float* entries = input<float>(tables, "tables", {n_entries, n_channels});
  const Level row = level_of(input<double>(level, "level", {5}));
  check_levels({row}, n_entries);
  const auto n_nodes = static_cast<py::ssize_t>(std::floor(row.scale + 0.5f)) + 2;
  float* to = output<float>(out, "out", {n_channels, n_nodes, n_nodes});
  py::gil_scoped_release release;
  grid_unroll(row, entries, static_cast<int>(n_channels), n_nodes, to);
}

int64_t march(const py::array& origins, const py::array& directions, const py::array& jitter, const py::array& box_min,
              const py::array& box_max, const py::array& occupancy, int resolution, float step, int max_samples,
              py::array positions, py::array distances, py::array rays, py::array offsets) {
  const March setup =
      march_of(input<float>(box_min, "box_min", {3}), input<float>(box_max, "box_max", {3}), resolution, step,
               max_samples, input<uint8_t>(occupancy, "occupancy", {occupancy_bytes(resolution)}));
  const auto n_rays = axis_length(origins, "origins", 2, 0);
  const float* from = input<float>(origins, "origins", {n_rays, 3});
  const float* along = input<float>(directions, "directions", {n_rays, 3});
  const float* shift = input<float>(jitter, "jitter", {n_rays});
  const auto cap = axis_length(distances, "distances", 1, 0);
  if (cap < n_rays * max_samples || cap > kMaxSamples) {
    throw py::value_error("distances: expected room for R * max_samples = " + std::to_string(n_rays * max_samples) +
                          " samples (fewer than 2^31), got " + std::to_string(cap));
  }
  float* at = output<float>(positions, "positions", {cap, 3});
  float* reach = output<float>(distances, "distances", {cap});
  int32_t* owner = output<int32_t>(rays, "rays", {cap});
  int32_t* first = output<int32_t>(offsets, "offsets", {n_rays + 1});
  py::gil_scoped_release release;
  return march_rays(setup, from, along, shift, n_rays, at, reach, owner, first);
}

// Samples with offsets that stay inside [0, M] and never fall.
Samples samples_of(const py::array& density, const py::array& feature, const py::array& offsets, float step) {
  const auto n = axis_length(density, "density", 1, 0);
  const auto n_features = axis_length(feature, "feature", 2, 1);
  const auto n_offsets = axis_length(offsets, "offsets", 1, 0);
  const int32_t* first = input<int32_t>(offsets, "offsets", {n_offsets});
  bool is_right = n_offsets >= 1 && first[0] == 0 && first[n_offsets - 1] == n;
  for (py::ssize_t r = 1; is_right && r < n_offsets; ++r) is_right = first[r - 1] <= first[r];
  if (!is_right) throw py::value_error("offsets: expected to rise from 0 to M, the number of samples");
  return {input<float>(density, "density", {n}), input<float>(feature, "feature", {n, n_features}), first,
          static_cast<int>(n_features), step};
}

void composite_forward(const py::array& density, const py::array& feature, const py::array& offsets, float step,
                       py::array out, py::array alpha, py::array weight) {
  const Samples samples = samples_of(density, feature, offsets, step);
  const auto n_rays = offsets.shape(0) - 1;
  float* to = output<float>(out, "out", {n_rays, samples.n_features});
  float* opacity = output<float>(alpha, "alpha", {n_rays});
  float* weights = output<float>(weight, "weight", {density.shape(0)});
  py::gil_scoped_release release;
  composite(samples, n_rays, to, opacity, weights);
}

void composite_gradient(const py::array& density, const py::array& feature, const py::array& offsets, float step,
                        const py::array& weight, const py::array& d_out, const py::array& d_alpha,
                        const std::optional<py::array>& d_weight, py::array d_density, py::array d_feature) {
  const Samples samples = samples_of(density, feature, offsets, step);
  const auto n_rays = offsets.shape(0) - 1, n = density.shape(0);
  const CompositeGradient gradient{
      input<float>(weight, "weight", {n}),        input<float>(d_out, "d_out", {n_rays, samples.n_features}),
      input<float>(d_alpha, "d_alpha", {n_rays}), d_weight ? input<float>(*d_weight, "d_weight", {n}) : nullptr,
      output<float>(d_density, "d_density", {n}), output<float>(d_feature, "d_feature", {n, samples.n_features})};
  py::gil_scoped_release release;
  composite_backward(samples, n_rays, gradient);
}

}  // namespace

void bind_grid(py::module_& m) {
  m.def("simd_paths", &simd_paths, "Instruction sets that this CPU can run, portable first.");
  m.def("simd", &simd_name, "The instruction set in use.");
  m.def("set_simd", &set_simd, py::arg("name"), "Force an instruction set. Raises: ValueError.");
  m.def("threads", &threads, "Threads that a kernel may use.");
  m.def("set_threads", &set_threads, py::arg("n"), "Resize the thread pool. Raises: ValueError.");
  m.def("grid_encode", &encode, py::arg("positions"), py::arg("tables"), py::arg("levels"), py::arg("out"),
        "Bilinear look-up in three hash grids.");
  m.def("grid_encode_backward", &encode_backward, py::arg("positions"), py::arg("tables"), py::arg("d_out"),
        py::arg("levels"), py::arg("d_tables"), py::arg("d_positions") = py::none(),
        "Adds to d_tables, and writes d_positions where given.");
  m.def("grid_unroll", &unroll, py::arg("tables"), py::arg("level"), py::arg("out"),
        "The de-hashed node plane of one level.");
  m.def("march", &march, py::arg("origins"), py::arg("directions"), py::arg("jitter"), py::arg("box_min"),
        py::arg("box_max"), py::arg("occupancy"), py::arg("resolution"), py::arg("step"), py::arg("max_samples"),
        py::arg("positions"), py::arg("distances"), py::arg("rays"), py::arg("offsets"),
        "Samples of rays in occupied cells; returns their number.");
  m.def("composite", &composite_forward, py::arg("density"), py::arg("feature"), py::arg("offsets"), py::arg("step"),
        py::arg("out"), py::arg("alpha"), py::arg("weight"), "Volume rendering along rays.");
  m.def("composite_backward", &composite_gradient, py::arg("density"), py::arg("feature"), py::arg("offsets"),
        py::arg("step"), py::arg("weight"), py::arg("d_out"), py::arg("d_alpha"), py::arg("d_weight"),
        py::arg("d_density"), py::arg("d_feature"), "Gradients of density and feature.");
}

}  // namespace synctalk
