// What a block of threads does for one tile of the picture: march, look up, evaluate, composite, colour, blend.
//
// One kernel for all stages: samples live in shared memory, from a position to a weight on a pixel, so that there is
// no list of samples in device memory to be sized for the worst case, and rays stop behind what is opaque. The program
// is a sequence of phases with a barrier after each; in a phase a thread writes only what no other one touches. On the
// CPU a phase is a loop over the threads: HostBlock. There phases may be run in reverse, which must change nothing.
#pragma once

#include "gpu_field.h"
#include "paste.h"

namespace synctalk::gpu {

// ---- before the picture: one item for each word of the gated matrix, then for each brick

SYNCTALK_HD void lower(int* at, int value) {
#ifdef __CUDA_ARCH__
  atomicMin(at, value);
#else
  *at = value < *at ? value : *at;
#endif
}

SYNCTALK_HD int bits_of(float value) {
  union {
    float value;
    int bits;
  } both{value};
  return both.bits;
}

SYNCTALK_HD float value_of(int bits) {
  union {
    int bits;
    float value;
  } both{bits};
  return both.value;
}

// Condition and expression go into the weights: they multiply the gates.
SYNCTALK_HD void fold_word(const GpuNet& net, const GpuFrame& frame, uint32_t* gated, int word) {
  const int input = place_of_word(word, net.gated.n_tiles).input;
  const uint32_t weights = net.words[net.gated.first_word + word];
  const float first = input < net.n_gates ? frame.drive[input] : 0.0f;
  const float second = input + 1 < net.n_gates ? frame.drive[input + 1] : 0.0f;
  gated[word] = pack_halves(half_to_float(static_cast<uint16_t>(weights)) * first,
                            half_to_float(static_cast<uint16_t>(weights >> 16)) * second);
}

// Tells the tiles that a brick reaches into.
SYNCTALK_HD void bound_tiles(const GpuNet& net, const GpuFrame& frame, GpuDepths* depths, int brick) {
  const Footprint seen = footprint_of(frame.view, net.bricks[brick].centre, net.brick_half);
  const int columns = tile_columns(frame.width), rows = tile_rows(frame.height);
  const TileSpan span = tiles_under(seen, 0, 0, TILE_WIDTH, TILE_HEIGHT, columns, rows);
  for (int row = span.top; row <= span.bottom; ++row) {
    for (int column = span.left; column <= span.right; ++column) {
      GpuDepths* tile = depths + row * columns + column;
      lower(&tile->near_bits, bits_of(seen.near));
      lower(&tile->far_below, EMPTY_BITS - bits_of(seen.far));
    }
  }
}

SYNCTALK_HD int n_prepare_items(const GpuNet& net) { return net.gated.n_words() + net.n_bricks; }

SYNCTALK_HD void prepare(const GpuNet& net, const GpuFrame& frame, const GpuScratch& scratch, int item) {
  const int n_words = net.gated.n_words();
  if (item < n_words)
    fold_word(net, frame, scratch.gated, item);
  else if (item < n_words + net.n_bricks)
    bound_tiles(net, frame, scratch.depths, item - n_words);
}

// ---- rays

SYNCTALK_HD float distance_of(const March& march, const Ray& ray, int step) {
  return ray.near + (static_cast<float>(step) + 0.5f) * march.step;
}

SYNCTALK_HD bool is_going(const March& march, const Ray& ray) {
  return ray.n_samples < march.max_samples && ray.transmittance >= LEAST_TRANSMITTANCE &&
         distance_of(march, ray, ray.step) < ray.far;
}

// Some steps of a ray in occupied cells: bit i is step first + i.
struct Found {
  int first, n;
  uint32_t steps;
};

// Goes on along a ray for 32 steps or until so many samples are found.
SYNCTALK_HD Found find_samples(const March& march, const float origin[3], Ray& ray, int most) {
  Found found{ray.step, 0, 0};
  if (!is_going(march, ray)) return found;
  const int left = march.max_samples - ray.n_samples;
  most = most < left ? most : left;
  int i = 0;
  for (; i < 32 && found.n < most; ++i) {
    const float distance = distance_of(march, ray, found.first + i);
    if (!(distance < ray.far)) break;
    float unit[3];
    unit_position(march, origin, ray.direction, distance, unit);
    if (!is_occupied(march, unit)) continue;
    found.steps |= 1u << i;
    ++found.n;
  }
  ray.step += i;
  ray.n_samples += found.n;
  return found;
}

// Positions of what was found, into rows `row`...
SYNCTALK_HD void place_samples(const March& march, const float origin[3], const Ray& ray, const Found& found,
                               const GpuSpace& space, int thread, int row) {
  for (int i = 0; i < 32 && found.steps >> i != 0; ++i) {
    if (!(found.steps >> i & 1u)) continue;
    float unit[3];
    unit_position(march, origin, ray.direction, distance_of(march, ray, found.first + i), unit);
    for (int a = 0; a < 3; ++a) space.unit[a * THREADS + row] = unit[a];
    space.owner[row++] = thread;
  }
}

// Adds n evaluated rows to their ray.
SYNCTALK_HD void add_samples(const GpuNet& net, const GpuSpace& space, const Word* row, int n, Ray& ray,
                             float* accumulated) {
  for (; n > 0 && ray.transmittance >= LEAST_TRANSMITTANCE; --n, row += space.row_words) {
    const float log_density = lesser(row[0].value, net.max_log_density);
    const float opacity = 1.0f - expf(-net.density_scale * expf(log_density) * net.march.step);
    const float weight = ray.transmittance * opacity;
    ray.alpha += weight;
    ray.transmittance *= 1.0f - opacity;
    for (int i = 0; i < n_values(net); ++i) accumulated[i] += weight * row[1 + i].value;
  }
}

// ---- evaluation of the block's rows

// A thread's share of the encoding of n rows, as halves, and, unless colour is deferred, of what follows it.
SYNCTALK_HD void stage_rows(const GpuNet& net, const GpuFrame& frame, const GpuSpace& space, int n_rows, int thread) {
  const int span = n_rows > THREADS / 2 ? THREADS : (n_rows > THREADS / 4 ? THREADS / 2 : THREADS / 4);
  const int row = thread % span, group = thread / span, n_groups = THREADS / span;
  if (row >= n_rows) return;
  Word* words = space.rows + row * space.row_words;
  for (int i = group; i < padded_inputs(net.n_encoded) / 2; i += n_groups) {
    words[i].halves = pack_halves(encoded_value(net, space, row, 2 * i), encoded_value(net, space, row, 2 * i + 1));
  }
  if (!net.is_deferred && group == n_groups - 1) {
    stage_view(ViewInputs(net, frame, space, space.owner[row]), words + space.view_word);
  }
}

// A ray's accumulated features, as halves behind a zero for the log density, then direction and appearance.
SYNCTALK_HD void stage_ray(const GpuNet& net, const GpuFrame& frame, const GpuSpace& space, int thread, Word* words) {
  const float* feature = space.accumulated + thread * space.value_words;
  const auto value = [&](int i) { return i > 0 && i <= net.n_feature ? feature[i - 1] : 0.0f; };
  for (int i = 0; i < padded_inputs(1 + net.n_feature) / 2; ++i) {
    words[i].halves = pack_halves(value(2 * i), value(2 * i + 1));
  }
  stage_view(ViewInputs(net, frame, space, thread), words + space.view_word);
}

struct Evaluation {
  const GpuNet& net;
  const GpuFrame& frame;
  const GpuScratch& scratch;
  const GpuSpace& space;
};

// Plain float32, a thread for a row.
struct FloatFields {
  static constexpr bool is_half = false;

  template <class Block>
  SYNCTALK_HD static void evaluate(Block& block, const Evaluation& e, int n_rows) {
    block.threads([&](int thread) {
      if (thread < n_rows) evaluate_row(e.net, e.frame, e.space, thread);
    });
  }

  template <class Block>
  SYNCTALK_HD static void colour(Block& block, const Evaluation& e, typename Block::template Private<Ray>& rays,
                                 typename Block::template Private<int>& rows) {
    block.threads([&](int thread) {
      if (!(rays[thread].alpha > 0.0f)) return;
      float feature[MAX_WIDTH], a[MAX_WIDTH], b[MAX_WIDTH];
      float* accumulated = e.space.accumulated + thread * e.space.value_words;
      feature[0] = 0.0f;
      for (int i = 0; i < e.net.n_feature; ++i) feature[1 + i] = accumulated[i];
      float colour[3];
      colour_of(e.net, feature, ViewInputs(e.net, e.frame, e.space, thread), a, b, colour);
      rows[thread] = thread;
      for (int c = 0; c < 3; ++c) e.space.rows[thread * e.space.row_words + c].value = colour[c];
    });
  }
};

// Half precision, a warp for 16 rows; layers of at most 8 * TILES outputs.
template <int TILES>
struct HalfFields {
  static constexpr bool is_half = true;

  template <class Block>
  SYNCTALK_HD static void evaluate(Block& block, const Evaluation& e, int n_rows) {
    block.threads([&](int thread) { stage_rows(e.net, e.frame, e.space, n_rows, thread); });
    block.warps([&](const auto& warp) {
      for (int row = warp.index * TILE_ROWS; row < n_rows; row += WARPS * TILE_ROWS) {
        evaluate_rows<TILES>(e.net, e.space, e.scratch.gated, warp, e.space.rows + row * e.space.row_words);
      }
    });
  }

  template <class Block>
  SYNCTALK_HD static void colour(Block& block, const Evaluation& e, typename Block::template Private<Ray>& rays,
                                 typename Block::template Private<int>& rows) {
    typename Block::template Private<int> is_hit;
    block.threads([&](int thread) { is_hit[thread] = rays[thread].alpha > 0.0f ? 1 : 0; });
    const int n_rows = block.offsets(is_hit, rows);
    block.threads([&](int thread) {
      Word* words = e.space.rows + rows[thread] * e.space.row_words;
      if (is_hit[thread]) stage_ray(e.net, e.frame, e.space, thread, words);
    });
    block.warps([&](const auto& warp) {
      for (int row = warp.index * TILE_ROWS; row < n_rows; row += WARPS * TILE_ROWS) {
        colour_rows<TILES>(e.net, e.space, warp, e.space.rows + row * e.space.row_words);
      }
    });
  }
};

// ---- the tile

SYNCTALK_HD void write_pixel(const GpuFrame& frame, int x, int y, const Rgba& head) {
  if (x >= frame.width || y >= frame.height) return;
  const int64_t pixel = static_cast<int64_t>(y) * frame.width + x;
  if (frame.rgba) frame.rgba[pixel] = head;
  if (!frame.picture) return;
  uint8_t below[3];
  for (int c = 0; c < 3; ++c) below[c] = frame.plate[3 * pixel + c];
  blend_pixel(head.value, below, frame.picture + 3 * pixel);
}

// Warps see 8 x 4 pixels: neighbours meet the same cells.
SYNCTALK_HD int pixel_column(int thread) { return thread / WARP % 2 * 8 + thread % 8; }
SYNCTALK_HD int pixel_row(int thread) { return thread / WARP / 2 * 4 + thread % WARP / 8; }

// Draws tile number `tile` of a frame; Fields: FloatFields or HalfFields.
template <class Fields, class Block>
SYNCTALK_HD void render_tile(Block& block, const GpuNet& net, const GpuFrame& frame, const GpuScratch& scratch,
                             int tile) {
  const int columns = tile_columns(frame.width);
  const int x0 = tile % columns * TILE_WIDTH, y0 = tile / columns * TILE_HEIGHT;
  const float near = value_of(scratch.depths[tile].near_bits);
  const float far = value_of(EMPTY_BITS - scratch.depths[tile].far_below);
  if (!(near <= far)) {
    block.threads([&](int thread) { write_pixel(frame, x0 + pixel_column(thread), y0 + pixel_row(thread), {}); });
    return;
  }
  const March& march = net.march;
  const GpuSpace space = space_of(net, Fields::is_half, block.memory());
  const Evaluation evaluation{net, frame, scratch, space};
  float origin[3];
  camera_origin(frame.view, origin);
  typename Block::template Private<Ray> rays;
  typename Block::template Private<Found> found;
  typename Block::template Private<int> counts, first;
  block.threads([&](int thread) {
    const int x = x0 + pixel_column(thread), y = y0 + pixel_row(thread);
    Ray& ray = rays[thread] = make_ray(march, frame.view, near, far, origin, x, y);
    if (x >= frame.width || y >= frame.height) ray.far = ray.near;
    for (int a = 0; a < 3; ++a) space.direction[a * THREADS + thread] = ray.direction[a];
    for (int i = 0; i < n_values(net); ++i) space.accumulated[thread * space.value_words + i] = 0.0f;
  });
  int n_going = block.count([&](int thread) { return is_going(march, rays[thread]); });
  while (n_going > 0) {
    // As few rays are left, each may have several rows.
    const int most = THREADS / n_going < MOST_AT_ONCE ? THREADS / n_going : MOST_AT_ONCE;
    block.threads([&](int thread) {
      found[thread] = find_samples(march, origin, rays[thread], most);
      counts[thread] = found[thread].n;
    });
    const int n_rows = block.offsets(counts, first);
    block.threads(
        [&](int thread) { place_samples(march, origin, rays[thread], found[thread], space, thread, first[thread]); });
    Fields::evaluate(block, evaluation, n_rows);
    block.threads([&](int thread) {
      add_samples(net, space, space.rows + first[thread] * space.row_words, counts[thread], rays[thread],
                  space.accumulated + thread * space.value_words);
    });
    n_going = block.count([&](int thread) { return is_going(march, rays[thread]); });
  }
  if (net.is_deferred) Fields::colour(block, evaluation, rays, first);
  block.threads([&](int thread) {
    const Ray& ray = rays[thread];
    Rgba head{{0.0f, 0.0f, 0.0f, ray.alpha}};
    const float* accumulated = space.accumulated + thread * space.value_words;
    const Word* colour = space.rows + first[thread] * space.row_words;
    for (int c = 0; c < 3 && ray.alpha > 0.0f; ++c) {
      head.value[c] = net.is_deferred ? ray.alpha * colour[c].value : accumulated[c];
    }
    write_pixel(frame, x0 + pixel_column(thread), y0 + pixel_row(thread), head);
  });
}

// ---- a block on the CPU

class HostBlock {
 public:
  template <class T>
  struct Private {
    T of[THREADS];
    T& operator[](int thread) { return of[thread]; }
  };

  // is_reversed: threads and warps run last to first.
  HostBlock(Word* memory, bool is_reversed) : memory_(memory), is_reversed_(is_reversed) {}

  Word* memory() const { return memory_; }

  template <class Body>
  void threads(Body body) const {
    for (int i = 0; i < THREADS; ++i) body(is_reversed_ ? THREADS - 1 - i : i);
  }

  template <class Body>
  void warps(Body body) const {
    for (int i = 0; i < WARPS; ++i) body(HostWarp{is_reversed_ ? WARPS - 1 - i : i});
  }

  template <class Is>
  int count(Is is) const {
    int n = 0;
    for (int i = 0; i < THREADS; ++i) n += is(i) ? 1 : 0;
    return n;
  }

  // first[thread] = the sum of the counts before it; returns the sum of all.
  int offsets(Private<int>& counts, Private<int>& first) const {
    int sum = 0;
    for (int i = 0; i < THREADS; ++i) {
      first[i] = sum;
      sum += counts[i];
    }
    return sum;
  }

 private:
  Word* memory_;
  bool is_reversed_;
};

}  // namespace synctalk::gpu
