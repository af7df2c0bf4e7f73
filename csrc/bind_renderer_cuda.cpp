// Bindings of the renderer on the GPU: check, borrow, release the GIL, call.
#include "dlpack.h"
#include "frame_arrays.h"
#include "gpu_arrays.h"
#include "renderer_cuda.h"

namespace synctalk {
namespace {

using cuda::CudaRenderer;
using cuda::Frames;
using SharedFrames = std::shared_ptr<Frames>;

std::unique_ptr<CudaRenderer> make_renderer(const RendererTensors& tensors, bool is_half, bool is_graphed) {
  return std::make_unique<CudaRenderer>(tensors, is_half, is_graphed);
}

SharedFrames render(CudaRenderer& renderer, const gpu::GpuBatch& batch, int width, int height, const py::object& plates,
                    const StreamHandle& stream) {
  const auto frames = batch.frames(renderer.net(), renderer.n_condition(), width, height);
  const auto at = plates_of(plates, {static_cast<py::ssize_t>(frames.size()), height, width, 3}, stream);
  py::gil_scoped_release release;
  return renderer.render(frames, at, stream_of(stream));
}

py::tuple shape_of(const Frames& frames) { return py::tuple(py::cast(frames.shape())); }

py::dict interface_of_frames(const Frames& frames) {
  py::dict interface;
  interface["shape"] = shape_of(frames);
  interface["typestr"] = frames.is_heads ? type_string<float>() : type_string<uint8_t>();
  interface["data"] = py::make_tuple(reinterpret_cast<uintptr_t>(frames.data()), false);
  interface["strides"] = py::none();
  interface["version"] = 3;
  interface["stream"] = reinterpret_cast<uintptr_t>(frames.queue().stream());
  return interface;
}

// What a consumer of DLPack holds.
struct Loan {
  SharedFrames frames;
  std::vector<int64_t> shape;
  dlpack::ManagedTensor managed;
};

void end_loan(dlpack::ManagedTensor* managed) { delete static_cast<Loan*>(managed->owner); }

// A capsule that nobody took.
void drop_capsule(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, "dltensor")) return;
  auto* managed = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
  managed->release(managed);
}

// stream: as the protocol has it: None is the legacy default stream, -1 none at all.
py::capsule dlpack_of(const SharedFrames& frames, const std::optional<intptr_t>& stream, const py::object& max_version,
                      const py::object& dl_device, const std::optional<bool>& copy) {
  (void)max_version;  // 0.x is what every version takes
  if (copy.value_or(false)) throw py::buffer_error("frames are handed out as they are: copy them afterwards");
  if (!dl_device.is_none() && !dl_device.equal(py::make_tuple(dlpack::CUDA, frames->queue().device()))) {
    throw py::buffer_error("frames are on the GPU: take them there, or call numpy()");
  }
  if (stream.value_or(0) != -1) frames->show_to(stream_of(static_cast<uintptr_t>(stream.value_or(0))));
  auto loan = std::make_unique<Loan>(Loan{frames, frames->shape(), {}});
  const dlpack::DataType type =
      frames->is_heads ? dlpack::DataType{dlpack::FLOAT, 32, 1} : dlpack::DataType{dlpack::UNSIGNED, 8, 1};
  const dlpack::Device device{dlpack::CUDA, frames->queue().device()};
  loan->managed = {
      {frames->data(), device, static_cast<int32_t>(loan->shape.size()), type, loan->shape.data(), nullptr, 0},
      loan.get(),
      &end_loan};
  PyObject* capsule = PyCapsule_New(&loan->managed, "dltensor", &drop_capsule);
  if (!capsule) throw py::error_already_set();
  (void)loan.release();
  return py::reinterpret_steal<py::capsule>(capsule);
}

py::array numpy_of(const SharedFrames& frames) {
  frames->start_copy();
  std::shared_ptr<cuda::Memory> memory;
  {
    py::gil_scoped_release release;
    memory = frames->host_copy();
  }
  void* at = memory->as<void>();
  using Held = std::shared_ptr<cuda::Memory>;
  py::capsule owner(new Held(std::move(memory)), [](void* held) { delete static_cast<Held*>(held); });
  const auto type = frames->is_heads ? py::dtype::of<float>() : py::dtype::of<uint8_t>();
  return py::array(type, frames->shape(), at, owner);
}

}  // namespace

void bind_renderer_cuda(py::module_& m) {
  m.def("cuda_why_not", &cuda::why_not, "Why CudaRenderer cannot work in this process, with what to do, or ''.");
  py::class_<Frames, SharedFrames>(
      m, "CudaFrames",
      "Pictures uint8 [N, H, W, 3] or heads float32 [N, H, W, 4] on the GPU, perhaps still being drawn.\n\n"
      "Their memory is used again when they are gone: who reads it through __cuda_array_interface__ must be done by\n"
      "then; who takes it through DLPack need not care, as long as the stream that was named to it exists.")
      .def_property_readonly("shape", &shape_of)
      .def_property_readonly("is_done", &Frames::is_done)
      .def_property_readonly("__cuda_array_interface__", &interface_of_frames)
      .def("__dlpack__", &dlpack_of, py::kw_only(), py::arg("stream") = py::none(), py::arg("max_version") = py::none(),
           py::arg("dl_device") = py::none(), py::arg("copy") = py::none())
      .def("__dlpack_device__",
           [](const Frames& frames) { return py::make_tuple(dlpack::CUDA, frames.queue().device()); })
      .def("start_copy", &Frames::start_copy, "Begins the copy to the host.")
      .def("numpy", &numpy_of, "The frames in pinned memory of the host; waits until they are there.");
  py::class_<CudaRenderer> renderer(
      m, "CudaRenderer",
      "The head of one avatar, rendered on the GPU; tensors as Renderer's. is_half: networks in half precision;\n"
      "is_graphed: launch captured graphs. Calls from several threads at once are fine.");
  define_init(renderer, &make_renderer, py::arg("is_half") = true, py::arg("is_graphed") = true);
  renderer.def("render", &render, py::arg("batch"), py::arg("width"), py::arg("height"), py::arg("plates") = py::none(),
               py::arg("stream") = py::none(),
               "Queues a batch: pictures over plates uint8 [N, H, W, 3], which are on the host or the GPU, or heads "
               "alone.\n\nstream: a handle; its work so far comes before, its later work after the batch.");
}

}  // namespace synctalk
