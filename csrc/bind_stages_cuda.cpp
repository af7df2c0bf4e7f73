// Bindings of a picture's stages on the GPU: check, borrow, release the GIL, call.
#include "frame_arrays.h"
#include "kernels_cuda.h"
#include "stage_arrays.h"
#include "stages_cuda.h"

namespace synctalk {
namespace {

using cuda::Frames;

struct CudaStages : FrameStages {
  std::shared_ptr<cuda::Queue> queue;
  std::unique_ptr<Frames> frames;  // being drawn
  cudaStream_t consumer = nullptr;
};

std::unique_ptr<CudaStages> make_stages(const RendererTensors& tensors) {
  auto made = std::make_unique<CudaStages>();
  made->queue = std::make_shared<cuda::Queue>(cuda::current_device());
  made->stages = cuda::stages(tensors, made->queue);
  return made;
}

// Frames that show plates, or nothing; what the plates' stream has to do comes first.
std::unique_ptr<Frames> frames_of(const CudaStages& self, const Shape& shape, const cuda::Plates& plates) {
  const cudaStream_t stream = self.queue->stream();
  if (self.consumer) {
    cuda::Event before;
    before.record(self.consumer);
    before.hold_back(stream);
  }
  auto frames = std::make_unique<Frames>(self.queue, static_cast<int>(shape[0]), static_cast<int>(shape[2]),
                                         static_cast<int>(shape[1]), plates.at == nullptr);
  if (!plates.at) {
    cuda::check(cudaMemsetAsync(frames->data(), 0, frames->n_bytes(), stream), "heads");
  } else {
    const auto kind = plates.is_on_device ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice;
    cuda::check(cudaMemcpyAsync(frames->data(), plates.at, frames->n_bytes(), kind, stream), "plates");
  }
  return frames;
}

std::pair<int, int> begin(CudaStages& self, const gpu::GpuBatch& batch, int width, int height, const py::object& plates,
                          const StreamHandle& stream, const py::object& into) {
  auto frames = batch.frames(self.stages->net(), self.stages->n_condition(), width, height);
  if (frames.empty()) throw py::value_error("a batch needs a frame");
  const auto n = static_cast<py::ssize_t>(frames.size());
  const auto below = plates_of(plates, {n, height, width, 3}, stream);
  gpu::Rgba* heads = into.is_none() ? nullptr : heads_of(into, {n, height, width, 4});
  py::gil_scoped_release release;
  const cuda::OnDevice on(self.queue->device());
  self.consumer = stream_of(stream);
  if (heads) {
    self.frames = nullptr;
    const size_t n_bytes = sizeof(gpu::Rgba) * static_cast<size_t>(n * width * height);
    cuda::check(cudaMemsetAsync(heads, 0, n_bytes, self.queue->stream()), "heads");
    point_at(frames, true, heads);
  } else {
    self.frames = frames_of(self, {n, height, width}, below);
    point_at(frames, self.frames->is_heads, self.frames->data());
  }
  self.counts = self.stages->begin(frames);
  return {self.counts.samples, self.counts.rays};
}

// Heads are of this stages' stream.
void over(CudaStages& self, const py::object& heads, const py::object& plates, const StreamHandle& stream) {
  const Shape shape = device_shape(heads, "heads", 4);
  const auto below = plates_of(plates, {shape[0], shape[1], shape[2], 3}, stream);
  const gpu::Rgba* at = heads_of(heads, shape);
  py::gil_scoped_release release;
  const cuda::OnDevice on(self.queue->device());
  self.consumer = stream_of(stream);
  self.frames = frames_of(self, shape, below);
  if (below.at)
    return self.stages->paste(at, static_cast<uint8_t*>(self.frames->data()), shape[0] * shape[1] * shape[2]);
  cuda::check(
      cudaMemcpyAsync(self.frames->data(), at, self.frames->n_bytes(), cudaMemcpyDeviceToDevice, self.queue->stream()),
      "heads");
}

std::shared_ptr<Frames> finish(CudaStages& self) {
  if (!self.frames) throw py::value_error("finish: nothing was begun");
  self.frames->close();
  if (self.consumer) self.frames->show_to(self.consumer);
  return std::move(self.frames);
}

}  // namespace

void bind_stages_cuda(py::module_& m) {
  py::class_<CudaStages, FrameStages> stages(m, "CudaStages",
                                             "FrameStages on the GPU; tensors as Renderer's. One batch at a time.");
  define_init(stages, &make_stages);
  stages
      .def_property_readonly("stream",
                             [](const CudaStages& self) { return reinterpret_cast<uintptr_t>(self.queue->stream()); })
      .def("begin", &begin, py::arg("batch"), py::arg("width"), py::arg("height"), py::arg("plates") = py::none(),
           py::arg("stream") = py::none(), py::arg("into") = py::none(),
           "Marches, and waits for how many samples and rays there are. plates, stream: as CudaRenderer.render's;\n"
           "into: heads [N, H, W, 4] on the GPU to draw into instead.")
      .def("over", &over, py::arg("heads"), py::arg("plates") = py::none(), py::arg("stream") = py::none(),
           "Begins frames of heads that are there already; plates, stream: as in begin.")
      .def("finish", &finish, "The pictures, or heads: CudaFrames.");
}

}  // namespace synctalk
