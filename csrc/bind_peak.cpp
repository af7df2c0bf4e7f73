// Bindings of the measurement of the CPU's peak.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "peak.h"

namespace synctalk {

namespace py = pybind11;

void bind_peak(py::module_& m) {
  m.def("peak_kinds", &peak_kinds, "Kinds of arithmetic that measure_peak knows on the instruction set in use.");
  m.def("measure_peak", &measure_peak, py::arg("kind"), py::arg("threads"), py::arg("seconds"),
        py::call_guard<py::gil_scoped_release>(),
        "Multiply-adds a second that so many threads reach with nothing else to do. Raises: ValueError.");
}

}  // namespace synctalk
