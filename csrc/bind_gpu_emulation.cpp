// Bindings of the emulation: check, borrow, release the GIL, call.
#include "gpu_arrays.h"
#include "gpu_emulation.h"

namespace synctalk {
namespace {

using gpu::GpuEmulation;

std::unique_ptr<GpuEmulation> make_emulation(const RendererTensors& tensors, bool is_half, bool is_reversed) {
  return std::make_unique<GpuEmulation>(tensors, is_half, is_reversed);
}

void render(const GpuEmulation& renderer, const gpu::GpuBatch& batch, const py::array& plates, py::array pictures,
            py::array heads) {
  const auto n = axis_length(plates, "plates", 4, 0), height = plates.shape(1), width = plates.shape(2);
  auto frames = batch.frames(renderer.net(), renderer.n_condition(), static_cast<int>(width), static_cast<int>(height));
  if (static_cast<py::ssize_t>(frames.size()) != n) throw py::value_error("plates: expected one for each frame");
  const uint8_t* plate = input<uint8_t>(plates, "plates", {n, height, width, 3});
  uint8_t* picture = output<uint8_t>(pictures, "pictures", {n, height, width, 3});
  float* head = output<float>(heads, "heads", {n, height, width, 4});
  if (reinterpret_cast<uintptr_t>(head) % alignof(gpu::Rgba) != 0) {
    throw py::value_error("heads: expected an array that begins at a multiple of 16 bytes");
  }
  for (size_t i = 0; i < frames.size(); ++i) {
    const size_t first = i * static_cast<size_t>(width * height);
    frames[i].plate = plate + 3 * first;
    frames[i].picture = picture + 3 * first;
    frames[i].rgba = reinterpret_cast<gpu::Rgba*>(head + 4 * first);
  }
  py::gil_scoped_release release;
  renderer.render(frames);
}

}  // namespace

void bind_gpu_emulation(py::module_& m) {
  py::class_<gpu::GpuBatch>(m, "GpuBatch",
                            "What drives N pictures: rotation [N, 3, 3], translation [N, 3], camera [N, 3] (focal "
                            "length and centre, pixels), condition [N, C], expression [N, E], appearance [N, A].")
      .def(py::init<py::array, py::array, py::array, py::array, py::array, py::array>(), py::arg("rotation"),
           py::arg("translation"), py::arg("camera"), py::arg("condition"), py::arg("expression"),
           py::arg("appearance"))
      .def_readonly("rotation", &gpu::GpuBatch::rotation)
      .def_readonly("translation", &gpu::GpuBatch::translation)
      .def_readonly("camera", &gpu::GpuBatch::camera);
  py::class_<GpuEmulation> emulation(m, "GpuEmulation",
                                     "The renderer of native-cuda run on the CPU, block by block: slow, for tests.");
  define_init(emulation, &make_emulation, py::arg("is_half"), py::arg("is_reversed") = false);
  emulation.def("render", &render, py::arg("batch"), py::arg("plates"), py::arg("pictures"), py::arg("heads"),
                "Heads over plates uint8 [N, H, W, 3] into pictures, and alone into heads float32 [N, H, W, 4].");
}

}  // namespace synctalk
