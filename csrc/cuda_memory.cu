#include <algorithm>

#include "kernels_cuda.h"
#include "renderer_cuda.h"

namespace synctalk::cuda {

Memory::Memory(size_t n_bytes, Kind kind) : n_bytes_(n_bytes), kind_(kind) {
  if (n_bytes == 0) return;
  if (kind == Kind::device)
    check(cudaMalloc(&at_, n_bytes), "memory on the GPU");
  else
    check(cudaMallocHost(&at_, n_bytes), "pinned memory");
}

// Destructors cannot throw: what fails here fails again, and is reported, at the next call.
Memory::~Memory() { (void)(kind_ == Kind::device ? cudaFree(at_) : cudaFreeHost(at_)); }

Event::Event() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "event"); }
Event::~Event() { (void)cudaEventDestroy(event_); }
void Event::record(cudaStream_t stream) { check(cudaEventRecord(event_, stream), "event, record"); }
void Event::wait() const { check(cudaEventSynchronize(event_), "event, wait"); }
void Event::hold_back(cudaStream_t stream) const { check(cudaStreamWaitEvent(stream, event_, 0), "stream, wait"); }

bool Event::is_done() const {
  const cudaError_t status = cudaEventQuery(event_);
  if (status == cudaErrorNotReady) return false;
  check(status, "event, query");
  return true;
}

int current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "current device");
  return device;
}

OnDevice::OnDevice(int device) {
  before_ = current_device();
  if (before_ != device) check(cudaSetDevice(device), "set device");
}

OnDevice::~OnDevice() { (void)cudaSetDevice(before_); }

Queue::Queue(int device) : device_(device) {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
}

Queue::~Queue() {
  (void)cudaStreamSynchronize(stream_);
  (void)cudaStreamDestroy(stream_);
}

std::unique_ptr<Memory> Queue::take(size_t n_bytes, Memory::Kind kind) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto& spare = spare_[static_cast<int>(kind)];
    const auto found = std::find_if(spare.begin(), spare.end(), [&](const auto& m) { return m->n_bytes() == n_bytes; });
    if (found != spare.end()) {
      auto memory = std::move(*found);
      spare.erase(found);
      return memory;
    }
  }
  return std::make_unique<Memory>(n_bytes, kind);
}

void Queue::give_back(std::unique_ptr<Memory> memory, Memory::Kind kind) {
  constexpr size_t kMostSpare = 16;
  const std::lock_guard<std::mutex> lock(mutex_);
  auto& spare = spare_[static_cast<int>(kind)];
  if (spare.size() < kMostSpare) spare.push_back(std::move(memory));
}

Frames::Frames(std::shared_ptr<Queue> queue, int n, int width, int height, bool is_heads)
    : n(n), width(width), height(height), is_heads(is_heads), queue_(std::move(queue)) {
  memory_ = queue_->take(n_bytes(), Memory::Kind::device);
}

Frames::~Frames() {
  bool is_safe = true;
  try {
    const OnDevice on(queue_->device());
    for (cudaStream_t consumer : consumers_) {
      Event read;
      read.record(consumer);
      read.hold_back(queue_->stream());
    }
  } catch (const std::exception&) {
    is_safe = false;  // that stream is gone: freeing waits for all work of the device
    (void)cudaGetLastError();
  }
  if (is_safe) queue_->give_back(std::move(memory_), Memory::Kind::device);
}

void Frames::show_to(cudaStream_t consumer) {
  const OnDevice on(queue_->device());
  done_.hold_back(consumer);
  if (std::find(consumers_.begin(), consumers_.end(), consumer) == consumers_.end()) consumers_.push_back(consumer);
}

void Frames::start_copy() {
  if (copy_) return;
  const OnDevice on(queue_->device());
  auto memory = queue_->take(n_bytes(), Memory::Kind::host);
  check(cudaMemcpyAsync(memory->as<void>(), data(), n_bytes(), cudaMemcpyDeviceToHost, queue_->stream()),
        "copy to the host");
  copied_.record(queue_->stream());
  // Given back by a reader who has waited, or by the frames: then the copy may still be under way, but whatever fills
  // the memory next comes later in the same stream.
  copy_ = std::shared_ptr<Memory>(memory.release(), [queue = queue_](Memory* of) {
    queue->give_back(std::unique_ptr<Memory>(of), Memory::Kind::host);
  });
}

std::shared_ptr<Memory> Frames::host_copy() {
  start_copy();
  copied_.wait();
  return copy_;
}

}  // namespace synctalk::cuda
