#include "renderer.h"

#include <algorithm>
#include <cmath>

#include "simd.h"
#include "threads.h"

namespace synctalk {

namespace portable {
extern const RendererPath renderer_path;
}
#ifdef SYNCTALK_X86
namespace avx2 {
extern const RendererPath renderer_path;
}
namespace avxvnni {
extern const RendererPath renderer_path;
}
namespace avx512 {
extern const RendererPath renderer_path;
}
namespace avx512vnni {
extern const RendererPath renderer_path;
}
#else
namespace avx2 = portable;
namespace avxvnni = portable;
namespace avx512 = portable;
namespace avx512vnni = portable;
#endif

const RendererPath& renderer_path() {
  return by_simd(portable::renderer_path, avx2::renderer_path, avxvnni::renderer_path, avx512::renderer_path,
                 avx512vnni::renderer_path);
}

Renderer::Renderer(const RendererTensors& tensors, const QuantisedRanges* ranges) : condition_(tensors.condition) {
  if (ranges) quantised_ = std::make_unique<QuantisedField>(tensors, *ranges);
  for (const NodePlane& plane : tensors.planes) {
    if (ranges) {
      planes_.push_back({nullptr, plane.n, plane.scale});
      continue;
    }
    const auto n = static_cast<int64_t>(tensors.n_channels) * plane.n * plane.n;
    // Two nodes are loaded at a time: one more, so that the last load stays inside.
    auto& nodes = nodes_.emplace_back(plane.nodes, plane.nodes + n);
    nodes.push_back(0);
    planes_.push_back({nodes.data(), plane.n, plane.scale});
  }
  const int g = tensors.march.resolution;
  occupancy_.assign(tensors.march.occupancy, tensors.march.occupancy + (int64_t{g} * g * g + 7) / 8);
  occupancy_.resize(occupancy_.size() + 3);  // four bytes are loaded at a time
  const auto pack = [this](const Matrix& m) { return layers_.add(m.weights, m.n_out, m.n_in, false); };
  net_.field.n_encoded = static_cast<int>(planes_.size()) * tensors.n_channels;
  net_.field.n_gates = tensors.attention[1].n_out;
  net_.field.n_feature = tensors.density.back().n_out - 1;
  net_.field.is_sigmoid = tensors.is_sigmoid;
  net_.field.n_density = static_cast<int>(tensors.density.size());
  std::transform(tensors.attention.begin(), tensors.attention.end(), net_.field.attention, pack);
  std::transform(tensors.density.begin(), tensors.density.end(), net_.field.density, pack);
  std::transform(tensors.colour.begin(), tensors.colour.end(), net_.colour, pack);
  net_.planes = planes_.data();
  net_.n_planes = static_cast<int>(planes_.size());
  net_.n_channels = tensors.n_channels;
  net_.march = tensors.march;
  net_.march.occupancy = occupancy_.data();
  net_.density_scale = tensors.density_scale;
  net_.max_log_density = tensors.max_log_density;
  net_.is_deferred = tensors.is_deferred;
  net_.n_directions = tensors.n_directions;
  net_.n_appearance = tensors.n_appearance;
  net_.n_colour = static_cast<int>(tensors.colour.size());
  net_.quantised = quantised_ ? &quantised_->net() : nullptr;
  bricks_ = bricks_of(net_.march);
}

std::vector<float> Renderer::drive_of(const float* condition, const float* expression) const {
  std::vector<float> drive((net_.field.n_gates + FIELD_ALIGN - 1) / FIELD_ALIGN * FIELD_ALIGN);
  std::copy_n(condition, condition_, drive.begin());
  std::copy_n(expression, n_expression(), drive.begin() + condition_);
  return drive;
}

std::vector<Tile> Renderer::tiles_of(const View& view, const int rectangle[4]) const {
  const int x0 = rectangle[0], y0 = rectangle[1];
  const int columns = (rectangle[2] - x0 + TILE_SIDE - 1) / TILE_SIDE,
            rows = (rectangle[3] - y0 + TILE_SIDE - 1) / TILE_SIDE;
  std::vector<Tile> tiles;
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < columns; ++column) {
      const int x = x0 + column * TILE_SIDE, y = y0 + row * TILE_SIDE;
      tiles.push_back(
          {x, y, std::min(x + TILE_SIDE, rectangle[2]), std::min(y + TILE_SIDE, rectangle[3]), 1e30f, -1e30f});
    }
  }
  for (const Brick& brick : bricks_.bricks) {
    const Footprint seen = footprint_of(view, brick.centre, bricks_.half);
    const TileSpan span = tiles_under(seen, x0, y0, TILE_SIDE, TILE_SIDE, columns, rows);
    for (int row = span.top; row <= span.bottom; ++row) {
      for (int column = span.left; column <= span.right; ++column) {
        Tile& tile = tiles[row * columns + column];
        tile.near = std::min(tile.near, seen.near);
        tile.far = std::max(tile.far, seen.far);
      }
    }
  }
  return tiles;
}

void Renderer::render(const View& view, int width, const int rectangle[4], const float* condition,
                      const float* expression, const float* appearance, float* rgba) const {
  const RendererPath& path = renderer_path();
  const auto drive = drive_of(condition, expression);
  const long picture_row = 4L * width;
  auto tiles = tiles_of(view, rectangle);
  const auto is_empty = [&](const Tile& tile) {
    if (tile.near <= tile.far) return false;
    for (int y = tile.y0; y < tile.y1; ++y) {
      std::fill_n(rgba + y * picture_row + 4L * tile.x0, 4 * (tile.x1 - tile.x0), 0.0f);
    }
    return true;
  };
  tiles.erase(std::remove_if(tiles.begin(), tiles.end(), is_empty), tiles.end());
  constexpr int64_t kGrain = 8;
  parallel_for(static_cast<int64_t>(tiles.size()), kGrain, [&](int64_t begin, int64_t end) {
    float* workspace = floats_of_thread<Renderer>(path.workspace_floats(net_));
    for (int64_t i = begin; i < end; ++i) {
      path.render_tile(net_, view, tiles[i], drive.data(), appearance, workspace, rgba, picture_row);
    }
  });
}

void Renderer::query(const float* positions, int64_t n, const float* condition, const float* expression,
                     float* log_density, float* feature) const {
  const RendererPath& path = renderer_path();
  const auto drive = drive_of(condition, expression);
  parallel_for(n, FIELD_PIECE, [&](int64_t begin, int64_t end) {
    float* workspace = floats_of_thread<Renderer>(path.workspace_floats(net_));
    path.query(net_, positions + 3 * begin, static_cast<int>(end - begin), drive.data(), workspace, log_density + begin,
               feature + begin * n_feature());
  });
}

}  // namespace synctalk
