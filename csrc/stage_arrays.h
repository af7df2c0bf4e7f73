// A picture's stages as they come from Python: arrays with __cuda_array_interface__, borrowed.
#pragma once

#include "device_arrays.h"
#include "gpu_arrays.h"
#include "stages.h"

namespace synctalk {

// What both places bind; `stages` draws, and knows how much there is to draw.
struct FrameStages {
  std::unique_ptr<gpu::Stages> stages;
  gpu::StageCounts counts{};

  int n_expression() const { return stages->net().n_gates - stages->n_condition(); }
  int n_values() const { return stages->net().is_deferred ? stages->net().n_feature : 3; }

  // Rows [first, first + n) of so many.
  static gpu::StageRows rows(py::ssize_t first, py::ssize_t n, int32_t most) {
    if (first < 0 || n < 0 || first + n > most) {
      throw py::value_error("first: expected rows of " + std::to_string(most) + ", got " + std::to_string(n) +
                            " from " + std::to_string(first));
    }
    return {static_cast<int32_t>(first), static_cast<int32_t>(n)};
  }

  void fill(py::ssize_t first, const py::object& positions, const py::object& condition, const py::object& expression) {
    const auto n = device_shape(positions, "positions", 2)[0];
    stages->fill(rows(first, n, counts.samples), device_array<float>(positions, "positions", {n, 3}),
                 device_array<float>(condition, "condition", {n, stages->n_condition()}),
                 device_array<float>(expression, "expression", {n, n_expression()}));
  }

  void weigh(py::ssize_t first, const py::object& log_density, const py::object& values) {
    const auto n = device_shape(log_density, "log_density", 1)[0];
    stages->weigh(rows(first, n, counts.samples), device_array<float>(log_density, "log_density", {n}),
                  device_array<float>(values, "values", {n, n_values()}));
  }

  void look(py::ssize_t first, const py::object& features, const py::object& feature, const py::object& direction,
            const py::object& appearance) {
    const gpu::GpuNet& net = stages->net();
    const auto n = device_shape(direction, "direction", 2)[0];
    const float* from = net.is_deferred ? nullptr : device_array<float>(features, "features", {n, net.n_feature});
    stages->look(rows(first, n, net.is_deferred ? counts.rays : counts.samples), from,
                 device_array<float>(feature, "feature", {n, net.n_feature}),
                 device_array<float>(direction, "direction", {n, 3}),
                 device_array<float>(appearance, "appearance", {n, net.n_appearance}));
  }

  void blend(py::ssize_t first, py::ssize_t n, const py::object& colour) {
    const float* from = stages->net().is_deferred ? device_array<float>(colour, "colour", {n, 3}) : nullptr;
    stages->blend(rows(first, n, counts.rays), from);
  }
};

// Heads [n, height, width, 4] in memory of the caller's.
inline gpu::Rgba* heads_of(const py::object& heads, const Shape& shape) {
  float* at = device_array<float>(heads, "heads", shape);
  if (reinterpret_cast<uintptr_t>(at) % alignof(gpu::Rgba) == 0) return reinterpret_cast<gpu::Rgba*>(at);
  throw py::value_error("heads: expected an array that begins at a multiple of 16 bytes");
}

// Where the frames of a batch go: pictures, which show their plates already, or heads.
inline void point_at(std::vector<gpu::GpuFrame>& frames, bool is_heads, void* pictures) {
  for (size_t i = 0; i < frames.size(); ++i) {
    gpu::GpuFrame& frame = frames[i];
    const size_t pixel = i * static_cast<size_t>(frame.width) * frame.height;
    frame.rgba = is_heads ? static_cast<gpu::Rgba*>(pictures) + pixel : nullptr;
    frame.picture = is_heads ? nullptr : static_cast<uint8_t*>(pictures) + 3 * pixel;
    frame.plate = frame.picture;
  }
}

}  // namespace synctalk
