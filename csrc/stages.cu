#include "kernels_cuda.h"
#include "stages_cuda.h"
#include "stages_in.h"

namespace synctalk::cuda {
namespace {

using gpu::StageCounts;

constexpr int kThreads = 256;

template <class Stage>
__global__ void __launch_bounds__(kThreads) stage_kernel(const __grid_constant__ Stage stage, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) stage(i);
}

class DevicePlace {
 public:
  using Memory = std::unique_ptr<cuda::Memory>;

  explicit DevicePlace(std::shared_ptr<Queue> queue) : queue_(std::move(queue)) {
    counts_ = std::make_shared<cuda::Memory>(sizeof(StageCounts), cuda::Memory::Kind::host);
  }

  // Grows in powers of two, so that a stream of pictures soon allocates nothing. Freeing waits for all work.
  template <class T>
  T* room(Memory& memory, int64_t n) const {
    const size_t n_bytes = sizeof(T) * static_cast<size_t>(n);
    if (!memory || memory->n_bytes() < n_bytes) {
      size_t room = 1 << 12;
      while (room < n_bytes) room *= 2;
      memory.reset();
      memory = std::make_unique<cuda::Memory>(room, cuda::Memory::Kind::device);
    }
    return memory->as<T>();
  }

  // From memory that may be written to as soon as this returns: it is not pinned.
  template <class T>
  const T* upload(Memory& memory, const T* values, size_t n) const {
    T* to = room<T>(memory, static_cast<int64_t>(n));
    check(cudaMemcpyAsync(to, values, sizeof(T) * n, cudaMemcpyHostToDevice, queue_->stream()), "upload");
    return to;
  }

  void clear(void* at, size_t n_bytes) const { check(cudaMemsetAsync(at, 0, n_bytes, queue_->stream()), "clear"); }

  // The only thing that is waited for.
  StageCounts read(const StageCounts* counts) const {
    auto* to = counts_->as<StageCounts>();
    check(cudaMemcpyAsync(to, counts, sizeof(StageCounts), cudaMemcpyDeviceToHost, queue_->stream()), "counts");
    check(cudaStreamSynchronize(queue_->stream()), "counts");
    return *to;
  }

  template <class Stage>
  void for_each(int64_t n, const Stage& stage) const {
    if (n == 0) return;
    const auto blocks = static_cast<unsigned>((n + kThreads - 1) / kThreads);
    stage_kernel<<<blocks, kThreads, 0, queue_->stream()>>>(stage, n);
    check(cudaGetLastError(), "stage");
  }

 private:
  std::shared_ptr<Queue> queue_;
  std::shared_ptr<cuda::Memory> counts_;  // pinned
};

}  // namespace

std::unique_ptr<gpu::Stages> stages(const RendererTensors& tensors, std::shared_ptr<Queue> queue) {
  return std::make_unique<gpu::StagesIn<DevicePlace>>(tensors, DevicePlace(std::move(queue)));
}

}  // namespace synctalk::cuda
