// Checks that bindings make at the door: NumPy arrays of the right dtype, shape and layout, borrowed as pointers.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

namespace synctalk {

namespace py = pybind11;

using Shape = std::vector<py::ssize_t>;

inline std::string shape_text(const py::ssize_t* dims, size_t n) {
  std::string text = "[";
  for (size_t i = 0; i < n; ++i) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + "]";
}

// Throws ValueError unless the array is C-contiguous, of dtype T and of the given shape.
template <class T>
void check_array(const py::array& array, const char* name, const Shape& shape) {
  bool is_right = array.dtype().is(py::dtype::of<T>()) && static_cast<size_t>(array.ndim()) == shape.size() &&
                  (array.flags() & py::array::c_style);
  for (size_t i = 0; is_right && i < shape.size(); ++i) is_right = array.shape(static_cast<py::ssize_t>(i)) == shape[i];
  if (is_right) return;
  const std::string wanted = py::str(static_cast<py::object>(py::dtype::of<T>()));
  const std::string got = py::str(static_cast<py::object>(array.dtype()));
  throw py::value_error(std::string(name) + ": expected C-contiguous " + wanted + " " +
                        shape_text(shape.data(), shape.size()) + ", got " + got + " " +
                        shape_text(array.shape(), static_cast<size_t>(array.ndim())) +
                        (array.flags() & py::array::c_style ? "" : " (not C-contiguous)"));
}

// Throws ValueError unless the array has so many axes; returns the length of one of them.
inline py::ssize_t axis_length(const py::array& array, const char* name, py::ssize_t n_axes, py::ssize_t axis) {
  if (array.ndim() != n_axes) {
    throw py::value_error(std::string(name) + ": expected " + std::to_string(n_axes) + " axes, got shape " +
                          shape_text(array.shape(), static_cast<size_t>(array.ndim())));
  }
  return array.shape(axis);
}

// Borrow an input.
template <class T>
const T* input(const py::array& array, const char* name, const Shape& shape) {
  check_array<T>(array, name, shape);
  return static_cast<const T*>(array.data());
}

// Borrow an output that the caller allocated.
template <class T>
T* output(py::array& array, const char* name, const Shape& shape) {
  check_array<T>(array, name, shape);
  if (!array.writeable()) throw py::value_error(std::string(name) + ": expected a writeable array");
  return static_cast<T*>(array.mutable_data());
}

}  // namespace synctalk
