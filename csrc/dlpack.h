// Handing memory to other libraries: the structs of DLPack, version 0.x, as its specification lays them out.
#pragma once

#include <cstdint>

namespace synctalk::dlpack {

inline constexpr int32_t CUDA = 2;  // kind of device
inline constexpr uint8_t UNSIGNED = 1, FLOAT = 2;

struct Device {
  int32_t kind, index;
};

struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t n_axes;
  DataType type;
  int64_t *shape, *strides;  // strides null: C-contiguous
  uint64_t byte_offset;
};

struct ManagedTensor {
  Tensor tensor;
  void* owner;
  void (*release)(ManagedTensor*);
};

}  // namespace synctalk::dlpack
