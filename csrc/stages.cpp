#include "stages.h"

#include <cstring>

#include "stages_in.h"

namespace synctalk::gpu {
namespace {

struct HostPlace {
  using Memory = std::vector<char>;

  template <class T>
  T* room(Memory& memory, int64_t n) const {
    memory.resize(sizeof(T) * static_cast<size_t>(n));
    return reinterpret_cast<T*>(memory.data());
  }

  template <class T>
  const T* upload(Memory& memory, const T* values, size_t n) const {
    T* to = room<T>(memory, static_cast<int64_t>(n));
    std::memcpy(to, values, sizeof(T) * n);
    return to;
  }

  void clear(void* at, size_t n_bytes) const { std::memset(at, 0, n_bytes); }
  StageCounts read(const StageCounts* counts) const { return *counts; }

  template <class Stage>
  void for_each(int64_t n, const Stage& stage) const {
    for (int64_t i = 0; i < n; ++i) stage(i);
  }
};

}  // namespace

std::unique_ptr<Stages> host_stages(const RendererTensors& tensors) {
  return std::make_unique<StagesIn<HostPlace>>(tensors, HostPlace{});
}

}  // namespace synctalk::gpu
