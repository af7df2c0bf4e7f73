// Bindings of the GPU's kernels; the same functions as on the CPU, with a stream handle as last argument.
#include <pybind11/stl.h>

#include "device_arrays.h"
#include "kernels_cuda.h"
#include "levels.h"
#include "march_settings.h"
#include "plane_lookup_cuda.h"

namespace synctalk {
namespace {

cudaStream_t stream_of(uintptr_t handle) { return reinterpret_cast<cudaStream_t>(handle); }

Grid grid_of(const py::object& tables, const std::vector<Level>& levels) {
  const Shape shape = device_shape(tables, "tables", 3);
  if (shape[0] != kPlanes || levels.size() > cuda::kMaxLevels) {
    throw py::value_error("tables: expected [3, E, C] and at most " + std::to_string(cuda::kMaxLevels) + " levels");
  }
  check_levels(levels, shape[1]);
  return {levels.data(), static_cast<int>(levels.size()), shape[1], static_cast<int>(shape[2])};
}

void encode(const py::object& positions, const py::object& tables, const py::array& levels, const py::object& out,
            uintptr_t stream) {
  const auto table = levels_of(levels);
  const Grid grid = grid_of(tables, table);
  const auto n = device_shape(positions, "positions", 2)[0];
  cuda::grid_encode(grid, device_array<float>(tables, "tables", {kPlanes, grid.n_entries, grid.n_channels}),
                    device_array<float>(positions, "positions", {n, 3}), n,
                    device_array<float>(out, "out", {n, grid.width()}), stream_of(stream));
}

void encode_backward(const py::object& positions, const py::object& tables, const py::object& d_out,
                     const py::array& levels, const py::object& d_tables, const py::object& d_positions,
                     uintptr_t stream) {
  const auto table = levels_of(levels);
  const Grid grid = grid_of(tables, table);
  const Shape shape{kPlanes, grid.n_entries, grid.n_channels};
  const auto n = device_shape(positions, "positions", 2)[0];
  cuda::grid_encode_backward(
      grid, device_array<float>(tables, "tables", shape), device_array<float>(positions, "positions", {n, 3}),
      device_array<float>(d_out, "d_out", {n, grid.width()}), n, device_array<float>(d_tables, "d_tables", shape),
      d_positions.is_none() ? nullptr : device_array<float>(d_positions, "d_positions", {n, 3}), stream_of(stream));
}

// `out` may be float32 or float16.
void look_up(const py::object& positions, const std::vector<py::object>& planes, const std::vector<float>& scales,
             const py::object& out, uintptr_t stream) {
  NodePlanes net = empty_planes(planes.size(), scales);
  net.n_channels = static_cast<int>(device_shape(planes[0], "planes", 3)[0]);
  for (int p = 0; p < net.n_planes; ++p) {
    net.nodes[p] =
        device_array<uint16_t>(planes[static_cast<size_t>(p)], "planes", {net.n_channels, net.n[p], net.n[p]});
  }
  const auto n = device_shape(positions, "positions", 2)[0];
  const float* at = device_array<float>(positions, "positions", {n, 3});
  const Shape shape{n, net.width()};
  const bool is_half = interface_of(out, "out")["typestr"].cast<std::string>() == type_string<uint16_t>();
  cuda::check(is_half
                  ? cuda::plane_lookup(net, at, n, reinterpret_cast<__half*>(device_array<uint16_t>(out, "out", shape)),
                                       stream_of(stream))
                  : cuda::plane_lookup(net, at, n, device_array<float>(out, "out", shape), stream_of(stream)),
              "plane_lookup");
}

void march(const py::object& origins, const py::object& directions, const py::object& jitter, const py::array& box_min,
           const py::array& box_max, const py::object& occupancy, int resolution, float step, int max_samples,
           const py::object& slots, const py::object& counts, uintptr_t stream) {
  const March setup =
      march_of(input<float>(box_min, "box_min", {3}), input<float>(box_max, "box_max", {3}), resolution, step,
               max_samples, device_array<uint8_t>(occupancy, "occupancy", {occupancy_bytes(resolution)}));
  const auto n = device_shape(origins, "origins", 2)[0];
  cuda::march(setup, device_array<float>(origins, "origins", {n, 3}),
              device_array<float>(directions, "directions", {n, 3}), device_array<float>(jitter, "jitter", {n}), n,
              device_array<float>(slots, "slots", {n, max_samples}), device_array<int32_t>(counts, "counts", {n}),
              stream_of(stream));
}

void march_gather(const py::object& origins, const py::object& directions, const py::array& box_min,
                  const py::array& box_max, const py::object& slots, const py::object& offsets,
                  const py::object& positions, const py::object& distances, const py::object& rays, uintptr_t stream) {
  const Shape shape = device_shape(slots, "slots", 2);
  const auto n = shape[0], n_samples = device_shape(positions, "positions", 2)[0];
  const March setup = march_of(input<float>(box_min, "box_min", {3}), input<float>(box_max, "box_max", {3}), 1, 1.0f,
                               static_cast<int>(shape[1]), nullptr);
  cuda::march_gather(setup, device_array<float>(origins, "origins", {n, 3}),
                     device_array<float>(directions, "directions", {n, 3}), device_array<float>(slots, "slots", shape),
                     device_array<int32_t>(offsets, "offsets", {n + 1}), n,
                     device_array<float>(positions, "positions", {n_samples, 3}),
                     device_array<float>(distances, "distances", {n_samples}),
                     device_array<int32_t>(rays, "rays", {n_samples}), stream_of(stream));
}

// Offsets are trusted here: reading them back would stop the GPU's queue.
Samples samples_of(const py::object& density, const py::object& feature, const py::object& offsets, float step) {
  const auto n = device_shape(density, "density", 1)[0], n_features = device_shape(feature, "feature", 2)[1];
  const auto n_offsets = device_shape(offsets, "offsets", 1)[0];
  if (n_offsets < 1) throw py::value_error("offsets: expected R + 1 values, got none");
  return {device_array<float>(density, "density", {n}), device_array<float>(feature, "feature", {n, n_features}),
          device_array<int32_t>(offsets, "offsets", {n_offsets}), static_cast<int>(n_features), step};
}

void composite_forward(const py::object& density, const py::object& feature, const py::object& offsets, float step,
                       const py::object& out, const py::object& alpha, const py::object& weight, uintptr_t stream) {
  const Samples samples = samples_of(density, feature, offsets, step);
  const auto n_rays = device_shape(offsets, "offsets", 1)[0] - 1, n = device_shape(density, "density", 1)[0];
  cuda::composite(samples, n_rays, device_array<float>(out, "out", {n_rays, samples.n_features}),
                  device_array<float>(alpha, "alpha", {n_rays}), device_array<float>(weight, "weight", {n}),
                  stream_of(stream));
}

void composite_gradient(const py::object& density, const py::object& feature, const py::object& offsets, float step,
                        const py::object& weight, const py::object& d_out, const py::object& d_alpha,
                        const py::object& d_weight, const py::object& d_density, const py::object& d_feature,
                        uintptr_t stream) {
  const Samples samples = samples_of(density, feature, offsets, step);
  const auto n_rays = device_shape(offsets, "offsets", 1)[0] - 1, n = device_shape(density, "density", 1)[0];
  const CompositeGradient gradient{device_array<float>(weight, "weight", {n}),
                                   device_array<float>(d_out, "d_out", {n_rays, samples.n_features}),
                                   device_array<float>(d_alpha, "d_alpha", {n_rays}),
                                   d_weight.is_none() ? nullptr : device_array<float>(d_weight, "d_weight", {n}),
                                   device_array<float>(d_density, "d_density", {n}),
                                   device_array<float>(d_feature, "d_feature", {n, samples.n_features})};
  cuda::composite_backward(samples, n_rays, gradient, stream_of(stream));
}

}  // namespace

void bind_cuda(py::module_& m) {
  m.def("cuda_devices", &cuda::devices, "GPUs that this process can use.");
  m.def("grid_encode_cuda", &encode, "grid_encode on the GPU, and a stream handle.");
  m.def("grid_encode_backward_cuda", &encode_backward, "grid_encode_backward on the GPU, and a stream handle.");
  m.def("plane_lookup_cuda", &look_up, "plane_lookup on the GPU, into float32 or float16, and a stream handle.");
  m.def("march_cuda", &march, "Distances of rays' samples [R, max_samples] and their numbers [R].");
  m.def("march_gather_cuda", &march_gather, "From slots and offsets to positions, distances and rays [M].");
  m.def("composite_cuda", &composite_forward, "composite on the GPU, and a stream handle.");
  m.def("composite_backward_cuda", &composite_gradient, "composite_backward on the GPU, and a stream handle.");
}

}  // namespace synctalk
