// Bindings of a picture's stages: check, borrow, release the GIL, call.
#include <algorithm>

#include "stage_arrays.h"

namespace synctalk {
namespace {

struct StagesEmulation : FrameStages {
  std::vector<gpu::Rgba> heads;  // aligned, as the GPU's memory is
  py::object pictures;           // uint8 [N, H, W, 3], or none: heads are drawn
  Shape shape;
};

std::unique_ptr<StagesEmulation> make_emulation(const RendererTensors& tensors) {
  auto emulation = std::make_unique<StagesEmulation>();
  emulation->stages = gpu::host_stages(tensors);
  return emulation;
}

py::array shown(const py::object& plates, const Shape& shape) {
  const auto& below = py::reinterpret_borrow<py::array>(plates);
  input<uint8_t>(below, "plates", shape);
  return below.attr("copy")().cast<py::array>();
}

std::pair<int, int> begin(StagesEmulation& self, const gpu::GpuBatch& batch, int width, int height,
                          const py::object& plates, const py::object& into) {
  auto frames = batch.frames(self.stages->net(), self.stages->n_condition(), width, height);
  if (frames.empty()) throw py::value_error("a batch needs a frame");
  const auto n = static_cast<py::ssize_t>(frames.size());
  self.shape = {n, height, width, plates.is_none() ? 4 : 3};
  self.pictures = py::none();
  if (!into.is_none()) {
    gpu::Rgba* at = heads_of(into, self.shape);
    std::fill_n(at, n * width * height, gpu::Rgba{});
    point_at(frames, true, at);
  } else if (plates.is_none()) {
    self.heads.assign(frames.size() * static_cast<size_t>(width) * height, {});
    point_at(frames, true, self.heads.data());
  } else {
    auto pictures = shown(plates, self.shape);
    point_at(frames, false, pictures.mutable_data());
    self.pictures = pictures;
  }
  self.counts = self.stages->begin(frames);
  return {self.counts.samples, self.counts.rays};
}

void over(StagesEmulation& self, const py::object& heads, const py::object& plates) {
  const Shape shape = device_shape(heads, "heads", 4);
  const gpu::Rgba* at = heads_of(heads, shape);
  const auto n_pixels = shape[0] * shape[1] * shape[2];
  self.shape = {shape[0], shape[1], shape[2], plates.is_none() ? 4 : 3};
  self.pictures = py::none();
  if (plates.is_none()) return self.heads.assign(at, at + n_pixels);
  auto pictures = shown(plates, self.shape);
  self.stages->paste(at, static_cast<uint8_t*>(pictures.mutable_data()), n_pixels);
  self.pictures = pictures;
}

py::object finish(const StagesEmulation& self) {
  if (!self.pictures.is_none()) return self.pictures;
  return py::array(py::dtype::of<float>(), self.shape, self.heads.data());  // a copy
}

}  // namespace

void bind_stages(py::module_& m) {
  py::class_<FrameStages>(m, "FrameStages", "Draws pictures in stages, between engines that evaluate rows.")
      .def("fill", &FrameStages::fill, py::arg("first"), py::arg("positions"), py::arg("condition"),
           py::arg("expression"), "What the head's network takes, of as many samples as there are rows.")
      .def("weigh", &FrameStages::weigh, py::arg("first"), py::arg("log_density"), py::arg("values"),
           "Takes in log densities and features (or colours) of the samples that were filled in last.")
      .def("look", &FrameStages::look, py::arg("first"), py::arg("features"), py::arg("feature"), py::arg("direction"),
           py::arg("appearance"), "What the colour network takes: of rays, or of the samples that were filled in last.")
      .def("blend", &FrameStages::blend, py::arg("first"), py::arg("n"), py::arg("colour"),
           "Rays into the pictures; colours [n, 3] where colour is deferred.");
  py::class_<StagesEmulation, FrameStages> emulation(
      m, "StagesEmulation", "FrameStages on the CPU, on addresses of the host: slow, for tests.");
  define_init(emulation, &make_emulation);
  emulation
      .def("begin", &begin, py::arg("batch"), py::arg("width"), py::arg("height"), py::arg("plates") = py::none(),
           py::arg("into") = py::none(), "Marches; returns how many samples and rays there are.")
      .def("over", &over, py::arg("heads"), py::arg("plates"), "Frames of heads that are there already.")
      .def("finish", &finish, "The pictures, or heads.");
}

}  // namespace synctalk
