// A batch of frames for the renderer for GPUs as it comes from Python, checked.
#pragma once

#include "gpu_pack.h"
#include "renderer_arrays.h"

namespace synctalk::gpu {

// What drives N pictures of one size: rotation [N, 3, 3], translation [N, 3], camera [N, 3] (focal length and centre,
// pixels), condition [N, C], expression [N, E], appearance [N, A].
struct GpuBatch {
  py::array rotation, translation, camera, condition, expression, appearance;

  std::vector<GpuFrame> frames(const GpuNet& net, int n_condition, int width, int height) const {
    const auto n = axis_length(rotation, "rotation", 3, 0);
    const py::ssize_t n_expression = net.n_gates - n_condition;
    const float* turn = input<float>(rotation, "rotation", {n, 3, 3});
    const float* shift = input<float>(translation, "translation", {n, 3});
    const float* lens = input<float>(camera, "camera", {n, 3});
    const float* conditions = input<float>(condition, "condition", {n, n_condition});
    const float* expressions = input<float>(expression, "expression", {n, n_expression});
    const float* appearances = input<float>(appearance, "appearance", {n, net.n_appearance});
    if (width < 1 || height < 1 || width > 16384 || height > 16384) {
      throw py::value_error("width, height: expected 1 to 16384 pixels");
    }
    std::vector<GpuFrame> frames;
    for (py::ssize_t i = 0; i < n; ++i) {
      View view{{}, {shift[3 * i], shift[3 * i + 1], shift[3 * i + 2]}, lens[3 * i], lens[3 * i + 1], lens[3 * i + 2]};
      if (!(view.focal > 0.0f) || !std::isfinite(view.focal)) {
        throw py::value_error("camera: expected a positive focal length");
      }
      for (int k = 0; k < 9; ++k) view.rotation[k / 3][k % 3] = turn[9 * i + k];
      const GpuInputs inputs{view, conditions + i * n_condition, expressions + i * n_expression,
                             appearances + i * net.n_appearance};
      frames.push_back(frame_of(net, n_condition, inputs, width, height));
    }
    return frames;
  }
};

}  // namespace synctalk::gpu
