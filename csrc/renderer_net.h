// What the fused renderer works on: plain structs, shared by the translation units of all instruction sets.
#pragma once

#include "field_net.h"
#include "quantised_net.h"
#include "view.h"

namespace synctalk {

constexpr int TILE_SIDE = 8;  // pixels
constexpr int TILE_RAYS = TILE_SIDE * TILE_SIDE;
constexpr int WAVE_SAMPLES = 2;               // samples of a ray that are evaluated before it is looked at again
constexpr float LEAST_TRANSMITTANCE = 1e-3f;  // a sample behind less than this does not count

// Nodes of one plane and level: float16 [C][n][n], row = second axis.
struct NodePlane {
  const uint16_t* nodes;
  int n;
  float scale;
};

struct RendererNet {
  FieldNet field;           // without its grid
  const NodePlane* planes;  // [3 * levels], plane-major
  int n_planes, n_channels;
  March march;
  float density_scale, max_log_density;  // density = scale * exp(min(log density, max))
  bool is_deferred;
  int n_directions, n_appearance;  // values of the spherical harmonics, of the appearance
  int n_colour;
  FieldLayer colour[FIELD_MAX_LAYERS];
  const QuantisedNet* quantised;  // the same in 16-bit integers, or null for float32
};

// Pixels [x0, x1) x [y0, y1), at most TILE_SIDE wide, and the depths between which they can meet occupied cells.
struct Tile {
  int x0, y0, x1, y1;
  float near, far;  // camera z, metres
};

struct RendererPath {
  long (*workspace_floats)(const RendererNet&);
  // rgba: premultiplied, of the picture's first pixel; `row` floats apart.
  void (*render_tile)(const RendererNet&, const View&, const Tile&, const float* drive, const float* appearance,
                      float* workspace, float* rgba, long row);
  // n positions in 0..1, at most FIELD_PIECE.
  void (*query)(const RendererNet&, const float* positions, int n, const float* drive, float* workspace,
                float* log_density, float* feature);
};

}  // namespace synctalk
