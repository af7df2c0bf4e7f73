// Binding of the look-up in node planes, as ONNX's node synctalk::PlaneLookup defines it.
#include <pybind11/stl.h>

#include "arrays.h"
#include "plane_lookup.h"

namespace synctalk {
namespace {

void look_up(const py::array& positions, const std::vector<py::array>& planes, const std::vector<float>& scales,
             py::array out) {
  NodePlanes net = empty_planes(planes.size(), scales);
  net.n_channels = planes.empty() ? 0 : static_cast<int>(axis_length(planes[0], "planes", 3, 0));
  for (int p = 0; p < net.n_planes; ++p) {
    const py::array& plane = planes[static_cast<size_t>(p)];
    const Shape shape{net.n_channels, net.n[p], net.n[p]};
    const bool is_half = plane.dtype().kind() == 'f' && plane.itemsize() == 2 && (plane.flags() & py::array::c_style);
    if (!is_half || Shape(plane.shape(), plane.shape() + plane.ndim()) != shape) {
      throw py::value_error("planes: expected C-contiguous float16 " + shape_text(shape.data(), shape.size()) +
                            ", got " + shape_text(plane.shape(), static_cast<size_t>(plane.ndim())));
    }
    net.nodes[p] = static_cast<const uint16_t*>(plane.data());
  }
  const auto n = axis_length(positions, "positions", 2, 0);
  const float* at = input<float>(positions, "positions", {n, 3});
  float* to = output<float>(out, "out", {n, net.width()});
  py::gil_scoped_release release;
  plane_lookup(net, at, n, to);
}

}  // namespace

void bind_lookup(py::module_& m) {
  m.def("plane_lookup", &look_up, py::arg("positions"), py::arg("planes"), py::arg("scales"), py::arg("out"),
        "Bilinear look-up in node planes.");
}

}  // namespace synctalk
