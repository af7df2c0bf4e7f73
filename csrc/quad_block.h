// The look-up of a block of samples in planes of quads, for one instruction set; see quantised_net.h.
#pragma once

#include "quantised_simd.h"

namespace synctalk::SYNCTALK_PATH {

constexpr int ONE = 1 << 14;    // the weight 1 of a bilinear look-up
constexpr int ENCODE_ROWS = 8;  // samples that are looked up at a time

// Where the samples lie on one axis of one level: the cell's share of the quad's place if the axis is a plane's first
// or second one, and the bilinear weights of its two ends as a pair; as AVX2 loads quads, also every pair twice: 0 1 4
// 5 and 2 3 6 7.
struct AxisCells {
  alignas(32) int32_t cell[ENCODE_ROWS];
  alignas(32) int32_t row[ENCODE_ROWS];
  alignas(32) int32_t weight[ENCODE_ROWS];
  alignas(32) int32_t weight_twice[2 * ENCODE_ROWS];
};

#if defined(__AVX2__)
static inline __m256i load_eight(const int32_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
static inline void store_eight(int32_t* p, __m256i v) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), v); }
#endif

static inline void find_cells(const float* axis, const QuadPlane& plane, AxisCells& cells) {
#if defined(__AVX2__)
  const __m256 at =
      _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(axis), _mm256_set1_ps(plane.scale)), _mm256_set1_ps(0.5f));
  const __m256i cell = _mm256_cvttps_epi32(at);
  const __m256 past = _mm256_sub_ps(at, _mm256_cvtepi32_ps(cell));
  const __m256i second = _mm256_cvtps_epi32(_mm256_mul_ps(past, _mm256_set1_ps(static_cast<float>(ONE))));
  const __m256i first = _mm256_sub_epi32(_mm256_set1_epi32(ONE), second);
  const __m256i weight = _mm256_or_si256(first, _mm256_slli_epi32(second, 16));
  typedef int32_t Eight __attribute__((vector_size(32)));
  const Eight at_cell = reinterpret_cast<Eight>(cell);
  store_eight(cells.cell, reinterpret_cast<__m256i>(place_in_row(at_cell)));
  store_eight(cells.row, reinterpret_cast<__m256i>(place_of_row(at_cell, plane.n_blocks)));
  store_eight(cells.weight, weight);
  store_eight(cells.weight_twice, _mm256_unpacklo_epi32(weight, weight));
  store_eight(cells.weight_twice + 8, _mm256_unpackhi_epi32(weight, weight));
#else
  for (int i = 0; i < ENCODE_ROWS; ++i) {
    const float at = axis[i] * plane.scale + 0.5f;
    const auto cell = static_cast<int32_t>(at);
    cells.cell[i] = place_in_row(cell);
    cells.row[i] = place_of_row(cell, plane.n_blocks);
    const auto second = static_cast<int32_t>(__builtin_nearbyintf((at - static_cast<float>(cell)) * ONE));
    cells.weight[i] = (ONE - second) | (second << 16);
  }
#endif
}

// Bilinear values of one plane, level and channel at ENCODE_ROWS samples.
static inline void look_up(const uint64_t* quads, const AxisCells& u, const AxisCells& v, int32_t* values) {
  alignas(32) int32_t index[ENCODE_ROWS];
#if defined(__AVX2__)
  store_eight(index, _mm256_add_epi32(load_eight(v.row), load_eight(u.cell)));
  __asm__("" : "+m"(index));  // read from memory: extracting lanes costs twice as much
  const auto two = [&](int i) {
    const uint32_t at = static_cast<uint32_t>(index[i]), next = static_cast<uint32_t>(index[i + 1]);
    const __m128i first = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(quads + at));
    return _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(first), reinterpret_cast<const __m64*>(quads + next)));
  };
  const __m256i half = _mm256_set1_epi32(ONE / 2);
  // Rows of the quads by their columns.
  const __m256i low = _mm256_madd_epi16(_mm256_set_m128i(two(4), two(0)), load_eight(u.weight_twice));
  const __m256i high = _mm256_madd_epi16(_mm256_set_m128i(two(6), two(2)), load_eight(u.weight_twice + 8));
  const __m256i rows = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(low, half), 14),
                                          _mm256_srai_epi32(_mm256_add_epi32(high, half), 14));
  const __m256i sum = _mm256_madd_epi16(rows, load_eight(v.weight));
  store_eight(values, _mm256_srai_epi32(_mm256_add_epi32(sum, half), 14));
#else
  for (int i = 0; i < ENCODE_ROWS; ++i) index[i] = v.row[i] + u.cell[i];
  for (int i = 0; i < ENCODE_ROWS; ++i) {
    int16_t node[4];
    __builtin_memcpy(node, quads + index[i], sizeof node);
    const int32_t u0 = u.weight[i] & 0xffff, u1 = u.weight[i] >> 16, v0 = v.weight[i] & 0xffff, v1 = v.weight[i] >> 16;
    const int32_t top = (node[0] * u0 + node[1] * u1 + ONE / 2) >> 14;
    const int32_t bottom = (node[2] * u0 + node[3] * u1 + ONE / 2) >> 14;
    values[i] = (top * v0 + bottom * v1 + ONE / 2) >> 14;
  }
#endif
}

// Asks for the quads of a plane, so that they are in the cache when they are looked up.
static inline void fetch_quads(const uint64_t* quads, const AxisCells& u, const AxisCells& v) {
  for (int i = 0; i < ENCODE_ROWS; ++i) __builtin_prefetch(quads + v.row[i] + u.cell[i]);
}

// axes: [3][FIELD_PIECE], from the block's first sample -> pairs [n_pairs][FIELD_BLOCK]. n_rows: whole ENCODE_ROWS.
// Plane by plane: neighbouring samples share cache lines. While a level is looked up, the next one is fetched: a fifth
// of the time.
[[gnu::noinline]] static void encode_quads(const QuantisedNet& net, const float* axes, int n_rows, int32_t* pairs) {
  constexpr int kGroups = FIELD_BLOCK / ENCODE_ROWS;
  constexpr int kRoom = 256;  // encoded values, at most; checked where the net is made
  const int n_encoded = kPlanes * net.n_levels * net.n_channels, n_groups = n_rows / ENCODE_ROWS;
  alignas(64) int32_t values[kRoom + 1][FIELD_BLOCK];
  AxisCells cells[2][3][kGroups];
  if (n_encoded & 1) __builtin_memset(values[n_encoded], 0, sizeof values[0]);
  const auto prepare = [&](int level) {
    auto& at = cells[level & 1];
    const QuadPlane* planes = net.planes + level * kPlanes * net.n_channels;
    for (int a = 0; a < 3; ++a) {
      for (int g = 0; g < n_groups; ++g) find_cells(axes + a * FIELD_PIECE + g * ENCODE_ROWS, *planes, at[a][g]);
    }
    for (int p = 0; p < kPlanes; ++p) {
      for (int channel = 0; channel < net.n_channels; ++channel) {
        const uint64_t* quads = planes[p * net.n_channels + channel].quads;
        for (int g = 0; g < n_groups; ++g) fetch_quads(quads, at[column_axis(p)][g], at[row_axis(p)][g]);
      }
    }
  };
  prepare(0);
  const QuadPlane* plane = net.planes;
  for (int level = 0; level < net.n_levels; ++level) {
    if (level + 1 < net.n_levels) prepare(level + 1);
    for (int p = 0; p < kPlanes; ++p) {
      const AxisCells *u = cells[level & 1][column_axis(p)], *v = cells[level & 1][row_axis(p)];
      for (int channel = 0; channel < net.n_channels; ++channel, ++plane) {
        int32_t* to = values[(p * net.n_levels + level) * net.n_channels + channel];
        for (int g = 0; g < n_groups; ++g) look_up(plane->quads, u[g], v[g], to + g * ENCODE_ROWS);
      }
    }
  }
  for (int k = 0; k < n_encoded; k += 2) {
    for (int row = 0; row < n_rows; row += LANES) {
      store(pairs + k / 2 * FIELD_BLOCK + row, pair_of(load(values[k] + row), load(values[k + 1] + row)));
    }
  }
}

}  // namespace synctalk::SYNCTALK_PATH
