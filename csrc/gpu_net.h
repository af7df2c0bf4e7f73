// What the renderer for GPUs works on: plain structs that travel as kernel arguments or in device memory.
#pragma once

#include "fragments.h"
#include "grid.h"
#include "view.h"

namespace synctalk::gpu {

inline constexpr int MAX_WIDTH = 128;  // outputs or inputs of a layer
inline constexpr int MAX_LAYERS = 8;
inline constexpr int MAX_APPEARANCE = 32;
inline constexpr float LEAST_TRANSMITTANCE = 1e-3f;  // as native-cpu's: a sample behind less than this does not count

// A tile of the picture is a block of threads: a ray each, and a row each of the samples that are evaluated together.
inline constexpr int TILE_WIDTH = 16, TILE_HEIGHT = 8;  // pixels
inline constexpr int THREADS = TILE_WIDTH * TILE_HEIGHT;
inline constexpr int WARPS = THREADS / WARP;
inline constexpr int MOST_AT_ONCE = 4;  // samples of a ray that are evaluated before it is looked at again

// One matrix of weights, in both forms.
struct GpuMatrix {
  int n_in, n_out;
  int n_steps, n_tiles;  // products of 16 inputs by 8 outputs
  int64_t first_word;    // of the fragments: [n_steps][n_tiles][FRAGMENT_WORDS], see place_of_word
  int64_t first_float;   // of [n_out][n_in]

  SYNCTALK_HD int n_words() const { return n_steps * n_tiles * FRAGMENT_WORDS; }
};

// One column of the encoding: quads of a plane's nodes, (v, u), (v, u + 1), (v + 1, u), (v + 1, u + 1) of every cell.
struct GpuColumn {
  uint32_t first;  // quad of cell (0, 0); rows of n_cells follow
  int32_t n_cells;
  float scale;
  uint8_t u_axis, v_axis;
};

struct GpuNet {
  March march;
  float density_scale, max_log_density;
  bool is_deferred, is_sigmoid;
  int n_encoded, n_gates, n_feature, n_directions, n_appearance;
  // Layers one after the other. The first of the density network is split into what it takes from the encoding and
  // from the gated condition and expression, the first of the colour network into what it takes from the density
  // network's outputs (whose first, the log density, has weight zero) and from direction and appearance.
  GpuMatrix attention[2], encoded, gated, density[MAX_LAYERS], feature, view, colour[MAX_LAYERS];
  int n_density, n_colour;  // layers behind the first
  GpuColumn columns[MAX_WIDTH];
  const uint64_t* quads;
  const uint32_t* words;
  const float* floats;
  const Brick* bricks;
  int n_bricks;
  float brick_half[3];
};

struct alignas(16) Rgba {
  float value[4];  // premultiplied
};

// One picture. Device pointers; any of the three pictures may be null.
struct GpuFrame {
  View view;
  int width, height;
  const uint8_t* plate;    // [height, width, 3]
  uint8_t* picture;        // [height, width, 3]: the head over the plate
  Rgba* rgba;              // [height, width]: the head alone
  float drive[MAX_WIDTH];  // condition, expression
  float appearance[MAX_APPEARANCE];
};

SYNCTALK_HD int tile_columns(int width) { return (width + TILE_WIDTH - 1) / TILE_WIDTH; }
SYNCTALK_HD int tile_rows(int height) { return (height + TILE_HEIGHT - 1) / TILE_HEIGHT; }

// The depths between which a tile can meet occupied cells, as bits of floats that are not negative: these order as
// integers do, and one fill makes all tiles empty, since `far` counts down from EMPTY_BITS.
inline constexpr int EMPTY_BITS = 0x7f7f7f7f;
struct GpuDepths {
  int near_bits, far_below;
};

// What the networks of one frame differ in, and its tiles.
struct GpuScratch {
  uint32_t* gated;    // net.gated's fragments times drive
  GpuDepths* depths;  // [tile rows * tile columns]
};

union Word {
  uint32_t halves;
  float value;
};

SYNCTALK_HD int padded_inputs(int n) { return (n + STEP_INPUTS - 1) / STEP_INPUTS * STEP_INPUTS; }

// A block's shared memory, in words of 32 bits.
struct GpuSpace {
  Word* rows;          // [THREADS][row_words]: inputs as halves, later outputs as floats
  float* accumulated;  // [THREADS][value_words] along the rays
  float* unit;         // [3][THREADS]: positions of rows, 0..1
  float* direction;    // [3][THREADS] of rays
  int* owner;          // [THREADS]: ray of a row
  int row_words;       // 4 more than a multiple of 8: reading fragments then meets each bank once
  int value_words;     // odd, for the same reason
  int view_word;       // where direction and appearance begin in a row
  int n_words;         // of all
};

SYNCTALK_HD int n_values(const GpuNet& net) { return net.is_deferred ? net.n_feature : 3; }

SYNCTALK_HD GpuSpace space_of(const GpuNet& net, bool is_half, Word* memory) {
  GpuSpace space{};
  const int encoded = padded_inputs(net.n_encoded) / 2, outputs = 1 + n_values(net);
  const int view = padded_inputs(net.n_directions + net.n_appearance) / 2;
  const int feature = padded_inputs(1 + net.n_feature) / 2;
  space.view_word = net.is_deferred ? feature : encoded;
  int words = outputs;
  if (is_half) {
    words = words > encoded ? words : encoded;
    words = words > space.view_word + view ? words : space.view_word + view;
  }
  space.row_words = (words + 3) / 8 * 8 + 4;
  space.value_words = n_values(net) | 1;
  int used = 0;
  const auto take = [&](int n) {
    Word* at = memory ? memory + used : nullptr;
    used += n * THREADS;
    return at;
  };
  space.rows = take(space.row_words);
  space.accumulated = reinterpret_cast<float*>(take(space.value_words));
  space.unit = reinterpret_cast<float*>(take(3));
  space.direction = reinterpret_cast<float*>(take(3));
  space.owner = reinterpret_cast<int*>(take(1));
  space.n_words = used;
  return space;
}

}  // namespace synctalk::gpu
