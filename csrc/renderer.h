// The run-time renderer of the head on the CPU: rays, march, dense node planes, networks, composite and colour, fused
// over tiles of pixels. Source of the direction's encoding: real spherical harmonics, l = 0..3, m = -l..l, with the
// Condon-Shortley sign: 0.2821, -0.4886 y, 0.4886 z, -0.4886 x, 1.0925 xy, -1.0925 yz, 0.9462 zz - 0.3154, ...
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "bricks.h"
#include "field.h"
#include "quantised.h"
#include "renderer_net.h"

namespace synctalk {

// One layer's weights [out, in].
struct Matrix {
  const float* weights;
  int n_out, n_in;
};

struct RendererTensors {
  std::vector<NodePlane> planes;  // [3 * levels], plane-major
  int n_channels;
  std::vector<Matrix> attention, density, colour;
  March march;
  bool is_sigmoid, is_deferred;
  int condition;
  int n_directions, n_appearance;
  float density_scale, max_log_density;
};

// Copies its tensors; const functions may be called from several threads at once.
class Renderer {
 public:
  // With ranges it computes in 16-bit integers, without in float32.
  explicit Renderer(const RendererTensors&, const QuantisedRanges* = nullptr);
  Renderer(const Renderer&) = delete;
  Renderer& operator=(const Renderer&) = delete;

  int n_condition() const { return condition_; }
  int n_expression() const { return net_.field.n_gates - condition_; }
  int n_appearance() const { return net_.n_appearance; }
  int n_feature() const { return net_.field.n_feature; }

  // Premultiplied RGBA of the pixels in the rectangle; others are left alone. rgba: [height, width, 4].
  void render(const View&, int width, const int rectangle[4], const float* condition, const float* expression,
              const float* appearance, float* rgba) const;
  // positions [M, 3] in 0..1 of the box, all of one frame.
  void query(const float* positions, int64_t n, const float* condition, const float* expression, float* log_density,
             float* feature) const;

 private:
  std::vector<float> drive_of(const float* condition, const float* expression) const;
  std::vector<Tile> tiles_of(const View&, const int rectangle[4]) const;

  PackedLayers layers_;
  std::unique_ptr<QuantisedField> quantised_;
  std::vector<std::vector<uint16_t>> nodes_;
  std::vector<NodePlane> planes_;
  std::vector<uint8_t> occupancy_;
  Bricks bricks_;
  int condition_;
  RendererNet net_{};
};

const RendererPath& renderer_path();

}  // namespace synctalk
