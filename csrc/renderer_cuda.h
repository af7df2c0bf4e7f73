// The renderer on the GPU: batches of frames, queued without waiting for anything, results that stay on the device.
#pragma once

#include <cuda_runtime.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "gpu_pack.h"

namespace synctalk::cuda {

// Why the renderer cannot work in this process, with what to do, or an empty text.
std::string why_not();

// A piece of memory on the device, or of pinned memory of the host; freed with its owner.
class Memory {
 public:
  enum class Kind { device, host };
  Memory(size_t n_bytes, Kind kind);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  template <class T>
  T* as() const {
    return static_cast<T*>(at_);
  }
  size_t n_bytes() const { return n_bytes_; }

 private:
  void* at_ = nullptr;
  size_t n_bytes_;
  Kind kind_;
};

// A mark in a stream.
class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream);
  void wait() const;                   // on the CPU
  void hold_back(cudaStream_t) const;  // what is queued later on the stream
  bool is_done() const;

 private:
  cudaEvent_t event_ = nullptr;
};

int current_device();

// Makes a device the current one for as long as it lives.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
};

// The stream of one renderer and memory that goes round. Outlives the renderer as long as there are frames.
class Queue {
 public:
  explicit Queue(int device);
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  int device() const { return device_; }
  cudaStream_t stream() const { return stream_; }
  // Memory that nobody uses, or new. Given back, it must be safe to write from the stream.
  std::unique_ptr<Memory> take(size_t n_bytes, Memory::Kind kind);
  void give_back(std::unique_ptr<Memory> memory, Memory::Kind kind);

 private:
  int device_;
  cudaStream_t stream_ = nullptr;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Memory>> spare_[2];
};

// Pictures on the device: uint8 [N, H, W, 3], or heads float32 [N, H, W, 4].
class Frames {
 public:
  Frames(std::shared_ptr<Queue> queue, int n, int width, int height, bool is_heads);
  ~Frames();
  Frames(const Frames&) = delete;
  Frames& operator=(const Frames&) = delete;

  int n, width, height;
  bool is_heads;

  std::vector<int64_t> shape() const { return {n, height, width, is_heads ? 4 : 3}; }
  size_t n_bytes() const { return static_cast<size_t>(n) * width * height * (is_heads ? sizeof(gpu::Rgba) : 3); }
  void* data() const { return memory_->as<void>(); }
  const Queue& queue() const { return *queue_; }

  // All that fills them is queued.
  void close() { done_.record(queue_->stream()); }
  bool is_done() const { return done_.is_done(); }
  // What is queued later on a stream sees them; the memory is not used again before what is queued there when the
  // frames are gone. The stream must live as long.
  void show_to(cudaStream_t consumer);
  // Begins the copy to pinned memory of the host; what was begun once is not begun again.
  void start_copy();
  // Waits for the copy. The memory belongs to whoever asks, and goes back to the queue with it.
  std::shared_ptr<Memory> host_copy();

 private:
  std::shared_ptr<Queue> queue_;
  std::unique_ptr<Memory> memory_;
  std::shared_ptr<Memory> copy_;
  std::vector<cudaStream_t> consumers_;
  Event done_, copied_;
};

// Where the plates of a batch are: uint8 [N, H, W, 3].
struct Plates {
  const uint8_t* at;  // null: heads alone are asked for
  bool is_on_device;
};

class CudaRenderer {
 public:
  // On the current device. is_graphed: launch a captured graph instead of one thing after the other.
  CudaRenderer(const RendererTensors&, bool is_half, bool is_graphed);
  ~CudaRenderer();
  CudaRenderer(const CudaRenderer&) = delete;
  CudaRenderer& operator=(const CudaRenderer&) = delete;

  const gpu::GpuNet& net() const { return net_; }
  int n_condition() const { return n_condition_; }
  const std::shared_ptr<Queue>& queue() const { return queue_; }

  // Queues frames of one size. What `stream` (null: none) has to do comes before it, and what it gets to do later after
  // it. Waits only where three batches of the same size are still in flight. May be called from several threads.
  std::unique_ptr<Frames> render(const std::vector<gpu::GpuFrame>& frames, const Plates& plates, cudaStream_t stream);

 private:
  // Room for one batch in flight.
  struct Lane;
  using LaneKey = std::tuple<int, int, int>;  // width, height, frames

  Lane& next_lane(const LaneKey& key);
  void queue_batch(const gpu::GpuFrame* frames, int n, const Plates& plates, Frames& out, int first);
  void launch(const Lane& lane, cudaStream_t stream) const;
  void capture(Lane& lane) const;

  std::shared_ptr<Queue> queue_;
  std::vector<std::unique_ptr<Memory>> tensors_;
  gpu::GpuNet net_;
  int n_condition_;
  const void* kernel_;
  size_t shared_bytes_;
  bool is_graphed_;
  std::mutex mutex_;
  std::map<LaneKey, std::vector<std::unique_ptr<Lane>>> lanes_;
  std::map<LaneKey, size_t> turn_;
};

}  // namespace synctalk::cuda
