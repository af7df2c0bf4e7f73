// Checks of arrays on the GPU: any object with __cuda_array_interface__, borrowed as a device pointer.
#pragma once

#include "arrays.h"

namespace synctalk {

template <class T>
const char* type_string();
template <>
inline const char* type_string<float>() {
  return "<f4";
}
template <>
inline const char* type_string<int32_t>() {
  return "<i4";
}
template <>
inline const char* type_string<uint16_t>() {  // float16, as bits
  return "<f2";
}
template <>
inline const char* type_string<uint8_t>() {
  return "|u1";
}

// The array's interface. Throws ValueError for an object without one.
inline py::dict interface_of(const py::object& array, const char* name) {
  if (!py::hasattr(array, "__cuda_array_interface__")) {
    throw py::value_error(std::string(name) + ": expected an array on the GPU, got " +
                          std::string(py::str(py::type::of(array))));
  }
  return array.attr("__cuda_array_interface__");
}

inline Shape device_shape(const py::object& array, const char* name, size_t n_axes) {
  const auto shape = interface_of(array, name)["shape"].cast<Shape>();
  if (shape.size() == n_axes) return shape;
  throw py::value_error(std::string(name) + ": expected " + std::to_string(n_axes) + " axes, got shape " +
                        shape_text(shape.data(), shape.size()));
}

inline bool is_contiguous(const py::dict& interface, const Shape& shape, py::ssize_t item) {
  if (!interface.contains("strides") || interface["strides"].is_none()) return true;
  const auto strides = interface["strides"].cast<Shape>();
  for (size_t i = shape.size(); i-- > 0; item *= shape[i]) {
    if (shape[i] > 1 && strides[i] != item) return false;
  }
  return true;
}

// Borrow a device array. Throws ValueError unless it is C-contiguous, of dtype T and of the given shape.
template <class T>
T* device_array(const py::object& array, const char* name, const Shape& shape) {
  const py::dict interface = interface_of(array, name);
  const auto type = interface["typestr"].cast<std::string>();
  const auto got = interface["shape"].cast<Shape>();
  if (type != type_string<T>() || got != shape || !is_contiguous(interface, shape, sizeof(T))) {
    throw py::value_error(std::string(name) + ": expected C-contiguous " + type_string<T>() + " " +
                          shape_text(shape.data(), shape.size()) + ", got " + type + " " +
                          shape_text(got.data(), got.size()));
  }
  return reinterpret_cast<T*>(interface["data"].cast<py::tuple>()[0].cast<uintptr_t>());
}

}  // namespace synctalk
