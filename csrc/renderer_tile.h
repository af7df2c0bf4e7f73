// One tile of the picture, for one instruction set: march, look up, evaluate, composite, colour.
//
// Rays advance in waves of a few samples; those that see nothing more behind what they have met leave before the next
// wave. The function does not depend on the size of a wave or a tile.
#pragma once

#include "byte_block.h"
#include "renderer_net.h"

namespace synctalk::SYNCTALK_PATH {

struct Canvas {
  Workspace field;
  float* accumulated;           // [TILE_RAYS][feature_stride]: features, or colours
  float *colour_in, *layer[2];  // [FIELD_BLOCK][...]
  int32_t* colour_pairs;        // [FIELD_BLOCK][...]
  QuantisedSpace quantised;
  long n_floats;
};

static inline int colour_width(const RendererNet& net) {
  return net.field.n_feature + net.n_directions + net.n_appearance;
}
static inline int feature_stride(const RendererNet& net) { return padded(net.field.n_feature + 3); }

static Canvas canvas_of(const RendererNet& net, float* memory) {
  Canvas canvas{};
  canvas.field = workspace_of(net.field, memory);
  long used = canvas.field.n_floats;
  const auto take = [&](int rows, int width) {
    float* at = memory ? memory + used : nullptr;
    used += static_cast<long>(rows) * width;
    return at;
  };
  int widest = 0;
  for (int i = 0; i < net.n_colour; ++i) widest = net.colour[i].n_out > widest ? net.colour[i].n_out : widest;
  canvas.accumulated = take(TILE_RAYS, feature_stride(net));
  canvas.colour_in = take(FIELD_BLOCK, padded(colour_width(net)));
  for (float*& layer : canvas.layer) layer = take(FIELD_BLOCK, padded(widest));
  if (net.quantised) {
    const int inputs = colour_width(net) > widest ? colour_width(net) : widest;
    canvas.colour_pairs = reinterpret_cast<int32_t*>(take(FIELD_BLOCK + 1, padded(inputs)));
    canvas.quantised = quantised_space(net.field, memory ? memory + used : nullptr);
    used += canvas.quantised.n_words;
  }
  canvas.n_floats = used;
  return canvas;
}

static long renderer_floats(const RendererNet& net) { return canvas_of(net, nullptr).n_floats; }

// Two neighbouring nodes for every lane; the first in the low half.
static inline UVec gather_pairs(const uint16_t* nodes, IVec index) {
#if defined(__AVX512F__)
  return reinterpret_cast<UVec>(_mm512_i32gather_epi32(reinterpret_cast<__m512i>(index), nodes, 2));
#elif defined(__AVX2__)
  return reinterpret_cast<UVec>(
      _mm256_i32gather_epi32(reinterpret_cast<const int*>(nodes), reinterpret_cast<__m256i>(index), 2));
#else
  UVec pairs;
  for (int i = 0; i < LANES; ++i) {
    uint32_t pair;
    __builtin_memcpy(&pair, nodes + index[i], sizeof pair);
    pairs[i] = pair;
  }
  return pairs;
#endif
}

// One byte for every lane. Three more bytes may be read behind it.
static inline UVec gather_bytes(const uint8_t* bytes, IVec index) {
#if defined(__AVX512F__)
  return reinterpret_cast<UVec>(_mm512_i32gather_epi32(reinterpret_cast<__m512i>(index), bytes, 1)) & 0xffu;
#elif defined(__AVX2__)
  return reinterpret_cast<UVec>(
             _mm256_i32gather_epi32(reinterpret_cast<const int*>(bytes), reinterpret_cast<__m256i>(index), 1)) &
         0xffu;
#else
  UVec found;
  for (int i = 0; i < LANES; ++i) found[i] = bytes[index[i]];
  return found;
#endif
}

// A bit for every lane that is not zero; lanes are 0 or -1.
static inline unsigned lanes_set(IVec lanes) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(lanes));
#elif defined(__AVX2__)
  return static_cast<unsigned>(_mm256_movemask_ps(reinterpret_cast<__m256>(lanes)));
#else
  unsigned mask = 0;
  for (int i = 0; i < LANES; ++i) mask |= (lanes[i] ? 1u : 0u) << i;
  return mask;
#endif
}

// Finite float16 to float32, exactly: sign kept, exponent moved by a multiplication.
static inline Vec from_half(UVec sign, UVec rest) {
  return reinterpret_cast<Vec>((sign & 0x80000000u) | (rest & 0x0fffe000u)) * splat(0x1p112f);
}

// axes: [3][FIELD_PIECE] -> columns [blocks][n_encoded][FIELD_BLOCK], for whole vectors of rows.
[[gnu::noinline]] static void encode_planes(const RendererNet& net, const float* axes, int n_rows, float* columns) {
  const int n_levels = net.n_planes / kPlanes, n_channels = net.n_channels;
  for (int slot = 0; slot < net.n_planes; ++slot) {
    const NodePlane plane = net.planes[slot];
    const float* u = axes + column_axis(slot / n_levels) * FIELD_PIECE;
    const float* v = axes + row_axis(slot / n_levels) * FIELD_PIECE;
    for (int row = 0; row < n_rows; row += LANES) {
      const Vec at_u = fma(load(u + row), splat(plane.scale), splat(0.5f));
      const Vec at_v = fma(load(v + row), splat(plane.scale), splat(0.5f));
      const IVec node_u = __builtin_convertvector(at_u, IVec), node_v = __builtin_convertvector(at_v, IVec);
      const Vec right = at_u - __builtin_convertvector(node_u, Vec);
      const Vec below = at_v - __builtin_convertvector(node_v, Vec);
      const IVec index = node_v * plane.n + node_u;
      float* to = columns +
                  (static_cast<long>(row / FIELD_BLOCK) * net.field.n_encoded + slot * n_channels) * FIELD_BLOCK +
                  row % FIELD_BLOCK;
      for (int channel = 0; channel < n_channels; ++channel) {
        const uint16_t* nodes = plane.nodes + static_cast<long>(channel) * plane.n * plane.n;
        const UVec first = gather_pairs(nodes, index), second = gather_pairs(nodes + plane.n, index);
        const Vec a = from_half(first << 16, first << 13), b = from_half(first, first >> 3);
        const Vec c = from_half(second << 16, second << 13), d = from_half(second, second >> 3);
        const Vec above = fma(right, b - a, a), under = fma(right, d - c, c);
        store(to + channel * FIELD_BLOCK, fma(below, under - above, above));
      }
    }
  }
}

// Fills one row of the colour network's input.
static void fill_colour_row(const RendererNet& net, const float* feature, const Ray& ray, const float* appearance,
                            float* row) {
  float harmonics[16];
  spherical_harmonics(ray.direction, harmonics);
  const int n = net.field.n_feature;
  __builtin_memcpy(row, feature, sizeof(float) * n);
  __builtin_memcpy(row + n, harmonics, sizeof(float) * net.n_directions);
  __builtin_memcpy(row + n + net.n_directions, appearance, sizeof(float) * net.n_appearance);
}

// The last layer's sums for the rows of colour_in: [n_rows][FIELD_ALIGN]. n_rows is even.
static float* colour_sums(const RendererNet& net, const Canvas& canvas, int n_rows) {
  const float* in = canvas.colour_in;
  int stride = padded(colour_width(net));
  float* out = nullptr;
  for (int i = 0; i < net.n_colour; ++i) {
    out = canvas.layer[i & 1];
    const bool is_last = i == net.n_colour - 1;
    if (net.quantised) {
      const QuantisedLayer& layer = net.quantised->colour[i];
      quantise_rows(in, stride, net.quantised->colour_scales[i], i > 0, n_rows, canvas.colour_pairs);
      output_layer(layer, canvas.colour_pairs, stride / 2, 1, n_rows, out);
    } else if (is_last) {
      apply<Finish::set>(net.colour[i], n_rows, in, stride, out);
    } else {
      apply<Finish::relu>(net.colour[i], n_rows, in, stride, out);
    }
    in = out;
    stride = padded(net.colour[i].n_out);
  }
  return out;
}

// Colours of the rows of colour_in: [n_rows][FIELD_ALIGN], three of them used. n_rows is even.
static const float* colours_of(const RendererNet& net, const Canvas& canvas, int n_rows) {
  float* out = colour_sums(net, canvas, n_rows);
  for (int i = 0; i < n_rows * FIELD_ALIGN; i += LANES) store(out + i, sigmoid(load(out + i)));
  return out;
}

// LANES steps of a ray from its next one: positions in 0..1, and which of them lie before its end in occupied cells.
static inline unsigned look_ahead(const March& march, const float origin[3], const Ray& ray, float unit[3][LANES]) {
  IVec lane;
  for (int i = 0; i < LANES; ++i) lane[i] = i;
  const Vec step = __builtin_convertvector(lane + ray.step, Vec) + splat(0.5f);
  const Vec distance = splat(ray.near) + step * splat(march.step);
  IVec cell[3];
  for (int a = 0; a < 3; ++a) {
    const Vec metres = splat(origin[a]) + splat(ray.direction[a]) * distance;
    const Vec u = (metres - splat(march.box_min[a])) * splat(march.inverse_extent[a]);
    const Vec inside = min(max(u, Vec{}), splat(1.0f));
    store(unit[a], inside);
    cell[a] = __builtin_convertvector(inside * splat(static_cast<float>(march.resolution)), IVec);
    cell[a] = min(cell[a], splat(march.resolution - 1));
  }
  const IVec bit = (cell[2] * march.resolution + cell[1]) * march.resolution + cell[0];
  const UVec byte = gather_bytes(march.occupancy, bit >> 3);
  const IVec is_used = reinterpret_cast<IVec>(byte >> reinterpret_cast<UVec>(bit & 7)) & 1;
  return lanes_set((is_used == 1) & (distance < splat(ray.far)));
}

// The next samples of a ray into rows n_rows..; returns the number of rows then. A ray without more gets far = near.
static int advance(const RendererNet& net, const float origin[3], Ray& ray, float* axes, int n_rows) {
  for (int n = 0; n < WAVE_SAMPLES && ray.n_samples < net.march.max_samples;) {
    if (!(ray.near + (static_cast<float>(ray.step) + 0.5f) * net.march.step < ray.far)) {
      ray.far = ray.near;
      return n_rows;
    }
    float unit[3][LANES];
    unsigned used = look_ahead(net.march, origin, ray, unit);
    int next = LANES;
    for (; used != 0 && n < WAVE_SAMPLES && ray.n_samples < net.march.max_samples; used &= used - 1) {
      const int i = __builtin_ctz(used);
      for (int a = 0; a < 3; ++a) axes[a * FIELD_PIECE + n_rows] = unit[a][i];
      ++n_rows;
      ++n;
      ++ray.n_samples;
      next = i + 1;
    }
    ray.step += used == 0 && n < WAVE_SAMPLES ? LANES : next;
  }
  if (ray.n_samples >= net.march.max_samples) ray.far = ray.near;
  return n_rows;
}

static inline int even(int n) { return (n + 1) & ~1; }

// Repeats the last row up to a whole vector.
static int pad_rows(float* axes, int n_rows) {
  int n = n_rows;
  for (; n % FIELD_ALIGN != 0; ++n) {
    for (int a = 0; a < 3; ++a) axes[a * FIELD_PIECE + n] = axes[a * FIELD_PIECE + n_rows - 1];
  }
  return n;
}

// What can be done for all rows of the axes before the blocks of rows go through `evaluate`.
static void evaluate_planes(const RendererNet& net, const Workspace& w, int n_rows) {
  const int n = pad_rows(w.axes, n_rows);
  if (!net.quantised) encode_planes(net, w.axes, n, w.columns);
}

// The field at n rows of the axes from `first`, the first of a block: rows of w.out.
static void evaluate(const RendererNet& net, const Workspace& w, const QuantisedSpace& space, const float* drive,
                     int first, int n) {
  if (net.quantised && net.quantised->has_bytes) {
    decode_bytes(net.field, *net.quantised, drive, w.axes + first, space, n, w.out);
  } else if (net.quantised) {
    decode_quantised(net.field, *net.quantised, drive, w.axes + first, space, n, w.out);
  } else {
    decode(net.field, drive, first / FIELD_BLOCK, w, even(n));
  }
}

// Opacity of n rows of w.out.
static void opacities_of(const RendererNet& net, const Workspace& w, int n, float* opacity) {
  const int stride = padded(1 + net.field.n_feature);
  for (int s = 0; s < FIELD_BLOCK; ++s) opacity[s] = s < n ? w.out[static_cast<long>(s) * stride] : 0.0f;
  for (int s = 0; s < FIELD_BLOCK; s += LANES) {
    const Vec density = splat(net.density_scale) * exp(min(load(opacity + s), splat(net.max_log_density)));
    store(opacity + s, splat(1.0f) - exp(density * splat(-net.march.step)));
  }
}

// Adds one sample behind what its ray has met so far.
static inline void add_sample(Ray& ray, float opacity, const float* value, int n, float* accumulated) {
  if (ray.transmittance < LEAST_TRANSMITTANCE) return;
  const float weight = ray.transmittance * opacity;
  ray.alpha += weight;
  ray.transmittance *= 1.0f - opacity;
  for (int i = 0; i < n; i += LANES) store(accumulated + i, fma(splat(weight), load(value + i), load(accumulated + i)));
}

// Evaluates the rows in the axes and adds them to their rays.
static void shade(const RendererNet& net, const Canvas& canvas, const float* drive, const float* appearance,
                  const uint8_t* owner, int n_rows, Ray* rays) {
  const Workspace& w = canvas.field;
  const int stride = padded(1 + net.field.n_feature), to_stride = feature_stride(net), n_feature = net.field.n_feature;
  evaluate_planes(net, w, n_rows);
  for (int first = 0; first < n_rows; first += FIELD_BLOCK) {
    const int n = n_rows - first < FIELD_BLOCK ? n_rows - first : FIELD_BLOCK;
    evaluate(net, w, canvas.quantised, drive, first, n);
    float opacity[FIELD_BLOCK];
    opacities_of(net, w, n, opacity);
    const float* value = w.out + 1;
    long value_stride = stride;
    int width = n_feature;
    if (!net.is_deferred) {
      for (int s = 0; s < n; ++s) {
        fill_colour_row(net, w.out + static_cast<long>(s) * stride + 1, rays[owner[first + s]], appearance,
                        canvas.colour_in + static_cast<long>(s) * padded(colour_width(net)));
      }
      value = colours_of(net, canvas, even(n));
      value_stride = FIELD_ALIGN;
      width = 3;
    }
    for (int s = 0; s < n; ++s) {
      const int i = owner[first + s];
      add_sample(rays[i], opacity[s], value + s * value_stride, width,
                 canvas.accumulated + static_cast<long>(i) * to_stride);
    }
  }
}

// Deferred colour: replaces the accumulated features of the rays that met something by premultiplied colours.
static void colour_rays(const RendererNet& net, const Canvas& canvas, const float* appearance, const Ray* rays) {
  uint8_t hit[FIELD_BLOCK];
  const int stride = feature_stride(net);
  for (int ray = 0; ray < TILE_RAYS;) {
    int n = 0;
    for (; ray < TILE_RAYS && n < FIELD_BLOCK; ++ray) {
      if (!(rays[ray].alpha > 0.0f)) continue;
      fill_colour_row(net, canvas.accumulated + static_cast<long>(ray) * stride, rays[ray], appearance,
                      canvas.colour_in + static_cast<long>(n) * padded(colour_width(net)));
      hit[n++] = static_cast<uint8_t>(ray);
    }
    const float* colour = colours_of(net, canvas, even(n));
    for (int s = 0; s < n; ++s) {
      for (int c = 0; c < 3; ++c)
        canvas.accumulated[static_cast<long>(hit[s]) * stride + c] = rays[hit[s]].alpha * colour[s * FIELD_ALIGN + c];
    }
  }
}

static void render_tile(const RendererNet& net, const View& view, const Tile& tile, const float* drive,
                        const float* appearance, float* memory, float* rgba, long picture_row) {
  const Canvas canvas = canvas_of(net, memory);
  const int stride = feature_stride(net);
  float origin[3];
  camera_origin(view, origin);
  __builtin_memset(canvas.accumulated, 0, sizeof(float) * TILE_RAYS * stride);
  Ray rays[TILE_RAYS] = {};
  uint8_t active[TILE_RAYS], owner[TILE_RAYS * WAVE_SAMPLES];
  int n_active = 0;
  for (int y = tile.y0; y < tile.y1; ++y) {
    for (int x = tile.x0; x < tile.x1; ++x) {
      const int i = (y - tile.y0) * TILE_SIDE + x - tile.x0;
      rays[i] = make_ray(net.march, view, tile.near, tile.far, origin, x, y);
      active[n_active++] = static_cast<uint8_t>(i);
    }
  }
  bool is_empty = true;
  while (n_active > 0) {
    int n_rows = 0;
    for (int i = 0; i < n_active; ++i) {
      const int before = n_rows;
      n_rows = advance(net, origin, rays[active[i]], canvas.field.axes, n_rows);
      for (int row = before; row < n_rows; ++row) owner[row] = active[i];
    }
    if (n_rows == 0) break;
    is_empty = false;
    shade(net, canvas, drive, appearance, owner, n_rows, rays);
    int n_left = 0;
    for (int i = 0; i < n_active; ++i) {
      const Ray& ray = rays[active[i]];
      if (ray.far > ray.near && ray.transmittance >= LEAST_TRANSMITTANCE) active[n_left++] = active[i];
    }
    n_active = n_left;
  }
  if (net.is_deferred && !is_empty) colour_rays(net, canvas, appearance, rays);
  for (int y = tile.y0; y < tile.y1; ++y) {
    for (int x = tile.x0; x < tile.x1; ++x) {
      const int i = (y - tile.y0) * TILE_SIDE + x - tile.x0;
      float* pixel = rgba + y * picture_row + 4L * x;
      __builtin_memcpy(pixel, canvas.accumulated + static_cast<long>(i) * stride, 3 * sizeof(float));
      pixel[3] = rays[i].alpha;
    }
  }
}

static void query(const RendererNet& net, const float* positions, int n, const float* drive, float* memory,
                  float* log_density, float* feature) {
  const Canvas canvas = canvas_of(net, memory);
  const Workspace& w = canvas.field;
  for (int i = 0; i < n; ++i) {
    for (int a = 0; a < 3; ++a) w.axes[a * FIELD_PIECE + i] = unit_clamp(positions[3 * i + a]);
  }
  evaluate_planes(net, w, n);
  const int stride = padded(1 + net.field.n_feature), n_feature = net.field.n_feature;
  for (int first = 0; first < n; first += FIELD_BLOCK) {
    const int rows = n - first < FIELD_BLOCK ? n - first : FIELD_BLOCK;
    evaluate(net, w, canvas.quantised, drive, first, rows);
    for (int s = 0; s < rows; ++s) {
      const float* row = w.out + static_cast<long>(s) * stride;
      log_density[first + s] = row[0];
      __builtin_memcpy(feature + static_cast<long>(first + s) * n_feature, row + 1, sizeof(float) * n_feature);
    }
  }
}

}  // namespace synctalk::SYNCTALK_PATH
