// Plates and streams of a batch as they come from Python.
#pragma once

#include <optional>

#include "device_arrays.h"
#include "renderer_cuda.h"

namespace synctalk {

using StreamHandle = std::optional<uintptr_t>;

inline constexpr uintptr_t kLegacyStream = 1;  // what 0 means, by a name of its own

inline cudaStream_t stream_of(const StreamHandle& handle) {
  return handle ? reinterpret_cast<cudaStream_t>(*handle ? *handle : kLegacyStream) : nullptr;
}

inline cuda::Plates plates_of(const py::object& plates, const Shape& shape, const StreamHandle& stream) {
  if (plates.is_none()) return {nullptr, false};
  if (py::isinstance<py::array>(plates)) {
    return {input<uint8_t>(py::reinterpret_borrow<py::array>(plates), "plates", shape), false};
  }
  if (!stream) throw py::value_error("plates: an array on the GPU needs the stream that it belongs to");
  return {device_array<uint8_t>(plates, "plates", shape), true};
}

}  // namespace synctalk
