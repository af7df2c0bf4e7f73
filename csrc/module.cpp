// The module synctalk._native: every bind_*.cpp file adds its functions.
#include <pybind11/pybind11.h>

namespace synctalk {

void bind_gpu_emulation(pybind11::module_& m);
void bind_grid(pybind11::module_& m);
void bind_field(pybind11::module_& m);
void bind_lookup(pybind11::module_& m);
void bind_peak(pybind11::module_& m);
void bind_rasterize(pybind11::module_& m);
void bind_stages(pybind11::module_& m);
void bind_upsampler(pybind11::module_& m);
#ifdef SYNCTALK_HAS_CUDA
void bind_cuda(pybind11::module_& m);
void bind_renderer_cuda(pybind11::module_& m);
void bind_stages_cuda(pybind11::module_& m);
#endif

}  // namespace synctalk

PYBIND11_MODULE(_native, m) {
  m.doc() = "Kernels of synctalk; see docs/native.md.";
  synctalk::bind_gpu_emulation(m);
  synctalk::bind_grid(m);
  synctalk::bind_field(m);
  synctalk::bind_lookup(m);
  synctalk::bind_peak(m);
  synctalk::bind_rasterize(m);
  synctalk::bind_stages(m);
  synctalk::bind_upsampler(m);
#ifdef SYNCTALK_HAS_CUDA
  synctalk::bind_cuda(m);
  synctalk::bind_renderer_cuda(m);
  synctalk::bind_stages_cuda(m);
#else
  m.def("cuda_devices", [] { return 0; }, "GPUs that this build can use: it was made without CUDA.");
#endif
}
