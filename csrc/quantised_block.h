// The field in 16-bit integers on blocks of samples, for one instruction set; see quantised_net.h.
//
// Lanes are samples up to the last layer of the density network: a layer's inputs are rows of pairs [n_pairs][block],
// its weights are broadcast. The last layer, and the colour network, have outputs in the lanes and broadcast the
// activations.
#pragma once

#include "field_block.h"
#include "quantised_net.h"

namespace synctalk::SYNCTALK_PATH {

constexpr int ONE = 1 << 14;    // the weight 1 of a bilinear look-up
constexpr int ENCODE_ROWS = 8;  // samples that are looked up at a time
// Vectors of samples at a time: with more, accumulators would leave the registers.
constexpr int SAMPLE_VECS = LANES == 16 ? 3 : 2;

static inline IVec splat(int32_t x) { return x - IVec{}; }
static inline IVec max(IVec a, IVec b) { return a > b ? a : b; }
static inline IVec min(IVec a, IVec b) { return a < b ? a : b; }

// Sum of the products of both halves.
static inline IVec multiply_pairs(IVec a, IVec b) {
#if defined(__AVX512BW__)
  return reinterpret_cast<IVec>(_mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<IVec>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
  return ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}

// Adds the products of both halves. Inline assembly: compilers copy the accumulator of these intrinsics.
static inline void add_products(IVec& sum, IVec a, IVec b) {
#if defined(__AVX512VNNI__)
  asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#elif defined(__AVXVNNI__)
  asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
#else
  sum += multiply_pairs(a, b);
#endif
}

static inline IVec pair_of(IVec low, IVec high) { return (low & 0xffff) | (high << 16); }

static inline IVec rounded(Vec x) {
#if defined(__AVX512F__)
  return reinterpret_cast<IVec>(_mm512_cvtps_epi32(x));
#elif defined(__AVX2__)
  return reinterpret_cast<IVec>(_mm256_cvtps_epi32(x));
#else
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest even
  return reinterpret_cast<IVec>(min(max(x, splat(-4e6f)), splat(4e6f)) + magic) - reinterpret_cast<IVec>(magic);
#endif
}

// Two vectors of 32-bit integers, cut to 16 bits, as one.
static inline IVec narrowed(IVec low, IVec high) {
#if defined(__AVX512BW__)
  const __m512i packed = _mm512_packs_epi32(reinterpret_cast<__m512i>(low), reinterpret_cast<__m512i>(high));
  return reinterpret_cast<IVec>(_mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), packed));
#elif defined(__AVX2__)
  const __m256i packed = _mm256_packs_epi32(reinterpret_cast<__m256i>(low), reinterpret_cast<__m256i>(high));
  return reinterpret_cast<IVec>(_mm256_permute4x64_epi64(packed, 0xd8));
#else
  int16_t narrow[2 * LANES];
  low = min(max(low, splat(-32768)), splat(32767));
  high = min(max(high, splat(-32768)), splat(32767));
  for (int i = 0; i < LANES; ++i) {
    narrow[i] = static_cast<int16_t>(low[i]);
    narrow[LANES + i] = static_cast<int16_t>(high[i]);
  }
  IVec both;
  __builtin_memcpy(&both, narrow, sizeof both);
  return both;
#endif
}

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

// axes: [3][FIELD_PIECE], from the block's first sample -> pairs [n_pairs][FIELD_BLOCK]. n_rows: whole ENCODE_ROWS.
// Plane by plane: neighbouring samples share cache lines.
[[gnu::noinline]] static void encode_quads(const QuantisedNet& net, const float* axes, int n_rows, int32_t* pairs) {
  constexpr int kGroups = FIELD_BLOCK / ENCODE_ROWS;
  constexpr int kRoom = 256;  // encoded values, at most; checked where the net is made
  const int n_encoded = kPlanes * net.n_levels * net.n_channels, n_groups = n_rows / ENCODE_ROWS;
  alignas(64) int32_t values[kRoom + 1][FIELD_BLOCK];
  AxisCells cells[3][kGroups];
  if (n_encoded & 1) __builtin_memset(values[n_encoded], 0, sizeof values[0]);
  const QuadPlane* plane = net.planes;
  for (int level = 0; level < net.n_levels; ++level) {
    for (int a = 0; a < 3; ++a) {
      for (int g = 0; g < n_groups; ++g) {
        find_cells(axes + a * FIELD_PIECE + g * ENCODE_ROWS, *plane, cells[a][g]);
      }
    }
    for (int p = 0; p < kPlanes; ++p) {
      const AxisCells *u = cells[column_axis(p)], *v = cells[row_axis(p)];
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

// One layer with samples in the lanes: finish(first output, first sample, sums [4][VECS]) for all outputs.
template <int VECS, class Finish>
[[gnu::noinline]] static void multiply_samples(const QuantisedLayer& layer, const int32_t* in, int sample,
                                               const Finish& finish) {
  const int32_t* weights = layer.lanes_of_samples;
  const IVec half = splat(layer.shift > 0 ? 1 << (layer.shift - 1) : 0);
  for (int output = 0; output < layer.n_out; output += QUANTISED_OUTPUTS) {
    IVec sum[QUANTISED_OUTPUTS][VECS];
#pragma GCC unroll 4
    for (auto& row : sum) {
#pragma GCC unroll 4
      for (IVec& value : row) value = half;
    }
    const int32_t* from = in + sample;
    for (int k = 0; k < layer.n_pairs; ++k) {
      IVec left[VECS];
#pragma GCC unroll 4
      for (int v = 0; v < VECS; ++v) left[v] = load(from + v * LANES);
#pragma GCC unroll 4
      for (int o = 0; o < QUANTISED_OUTPUTS; ++o) {
        const IVec right = splat(weights[o]);
#pragma GCC unroll 4
        for (int v = 0; v < VECS; ++v) add_products(sum[o][v], left[v], right);
      }
      from += FIELD_BLOCK;
      weights += QUANTISED_OUTPUTS;
    }
    finish(output, sample, sum);
  }
}

template <class Finish>
static void multiply_block(const QuantisedLayer& layer, const int32_t* in, int n_rows, const Finish& finish) {
  int sample = 0;
  for (; sample + (SAMPLE_VECS - 1) * LANES < n_rows; sample += SAMPLE_VECS * LANES) {
    multiply_samples<SAMPLE_VECS>(layer, in, sample, finish);
  }
  for (; sample < n_rows; sample += LANES) multiply_samples<1>(layer, in, sample, finish);
}

// A hidden layer: pairs to pairs.
static void hidden_layer(const QuantisedLayer& layer, const int32_t* in, int n_rows, int32_t* out) {
  multiply_block(layer, in, n_rows, [&](int output, int sample, const auto& sum) {
    const auto cut = [&](IVec value) { return min(max(value >> layer.shift, IVec{}), splat(32767)); };
    int v = 0;
    for (const IVec& first : sum[0]) {
      int32_t* to = out + output / 2 * FIELD_BLOCK + sample + v * LANES;
      store(to, pair_of(cut(first), cut(sum[1][v])));
      store(to + FIELD_BLOCK, pair_of(cut(sum[2][v]), cut(sum[3][v])));
      ++v;
    }
  });
}

// Within 1e-6, and the same bits on every path: `sigmoid` multiplies and adds at once where it can.
static inline Vec quick_sigmoid(Vec x) {
  const Vec exponent = min(max(x * splat(-1.44269504f), splat(-30.0f)), splat(30.0f)), magic = splat(12582912.0f);
  const Vec shifted = exponent + magic;
  const Vec part = exponent - (shifted - magic);
  Vec power = splat(0.00956051021f);
  power = power * part + splat(0.0559170392f);
  power = power * part + splat(0.240249811f);
  power = power * part + splat(0.693121968f);
  power = power * part + splat(0.999999191f);
  const IVec whole = reinterpret_cast<IVec>(shifted) << 23;
  return splat(1.0f) / (splat(1.0f) + reinterpret_cast<Vec>(reinterpret_cast<IVec>(power) + whole));
}

// What the attention's last layer does with its sums: pairs of gated condition and expression.
// scale_of(output): of its sums.
template <class ScaleOf>
static auto gate_finish(bool is_sigmoid, const float* drive, float gated_scale, const ScaleOf& scale_of, int32_t* out) {
  return [=](int output, int sample, const auto& sum) {
    const auto gated = [&](int i, IVec value) {
      Vec open = __builtin_convertvector(value, Vec) * splat(scale_of(output + i));
      if (is_sigmoid) open = quick_sigmoid(open);
      const Vec wide = open * splat(drive[output + i] * gated_scale);
      return rounded(min(max(wide, splat(-32767.0f)), splat(32767.0f)));
    };
    int v = 0;
    for (const IVec& first : sum[0]) {
      int32_t* to = out + output / 2 * FIELD_BLOCK + sample + v * LANES;
      store(to, pair_of(gated(0, first), gated(1, sum[1][v])));
      store(to + FIELD_BLOCK, pair_of(gated(2, sum[2][v]), gated(3, sum[3][v])));
      ++v;
    }
  };
}

// ROWS samples of a layer with outputs in the lanes; activations `row` words apart, their pairs `step`.
template <int ROWS, int VECS>
[[gnu::noinline]] static void multiply_outputs(const QuantisedLayer& layer, int output, const int32_t* in, long row,
                                               long step, int n_rows, float* out, long out_row) {
  const long stride = padded(layer.n_out);
  for (int r = 0; r < n_rows; r += ROWS) {
    IVec sum[ROWS][VECS] = {};
    const int32_t *weights = layer.lanes_of_outputs + output, *from = in + r * row;
    for (int k = 0; k < layer.n_pairs; ++k) {
      IVec left[ROWS];
#pragma GCC unroll 4
      for (int i = 0; i < ROWS; ++i) left[i] = splat(from[i * row]);
#pragma GCC unroll 4
      for (int v = 0; v < VECS; ++v) {
        const IVec right = load(weights + v * LANES);
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; ++i) add_products(sum[i][v], left[i], right);
      }
      from += step;
      weights += stride;
    }
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < VECS; ++v) {
        store(out + (r + i) * out_row + output + v * LANES,
              __builtin_convertvector(sum[i][v], Vec) * splat(layer.scale));
      }
    }
  }
}

// A layer to float rows [n_rows, even][padded(n_out)].
static void output_layer(const QuantisedLayer& layer, const int32_t* in, long row, long step, int n_rows, float* out) {
  const int width = padded(layer.n_out);
  int output = 0;
  for (; output + 3 * LANES < layer.n_out; output += 4 * LANES) {
    multiply_outputs<2, 4>(layer, output, in, row, step, n_rows, out, width);
  }
  for (; output + LANES < layer.n_out; output += 2 * LANES) {
    multiply_outputs<2, 2>(layer, output, in, row, step, n_rows, out, width);
  }
  for (; output < layer.n_out; output += LANES) {
    multiply_outputs<2, 1>(layer, output, in, row, step, n_rows, out, width);
  }
}

// Words of a block's buffers in the quantised field.
struct QuantisedSpace {
  int32_t *in, *attended, *hidden[2];
  long n_words;
};

static QuantisedSpace quantised_space(const FieldNet& field, float* memory) {
  long used = 0;
  const auto take = [&](int n_values) {  // room for the kernels' groups of outputs and of quads
    int32_t* at = memory ? reinterpret_cast<int32_t*>(memory + used) : nullptr;
    used += static_cast<long>((n_values + 7) / 2) * FIELD_BLOCK;
    return at;
  };
  QuantisedSpace space{};
  int widest = 0;
  for (int i = 0; i < field.n_density; ++i) widest = field.density[i].n_out > widest ? field.density[i].n_out : widest;
  space.in = take(field.n_encoded + 1 + field.n_gates);
  space.attended = take(field.attention[0].n_out);
  for (auto& hidden : space.hidden) hidden = take(widest);
  space.n_words = used;
  return space;
}

// From positions of a block to the rows of the density network's output, as `decode` does.
static void decode_quantised(const FieldNet& field, const QuantisedNet& net, const float* drive, const float* axes,
                             const QuantisedSpace& space, int n_rows, float* out) {
  encode_quads(net, axes, (n_rows + ENCODE_ROWS - 1) / ENCODE_ROWS * ENCODE_ROWS, space.in);
  hidden_layer(net.attention[0], space.in, n_rows, space.attended);
  const auto scale_of = [&](int) { return net.attention[1].scale; };
  multiply_block(net.attention[1], space.attended, n_rows,
                 gate_finish(field.is_sigmoid, drive, net.gated_scale, scale_of,
                             space.in + (field.n_encoded + 1) / 2 * FIELD_BLOCK));
  const int32_t* in = space.in;
  for (int i = 0; i < field.n_density - 1; ++i) {
    hidden_layer(net.density[i], in, n_rows, space.hidden[i & 1]);
    in = space.hidden[i & 1];
  }
  output_layer(net.density[field.n_density - 1], in, 1, FIELD_BLOCK, n_rows, out);
}

// Float rows to rows of pairs; width: whole FIELD_ALIGN. Writes up to a vector more behind the last row.
static void quantise_rows(const float* rows, int width, const float* scales, bool is_hidden, int n_rows,
                          int32_t* pairs) {
  const Vec least = splat(is_hidden ? 0.0f : -1e30f);
  for (int r = 0; r < n_rows; ++r) {
    const float* from = rows + static_cast<long>(r) * width;
    int32_t* to = pairs + static_cast<long>(r) * (width / 2);
    for (int i = 0; i < width; i += 2 * LANES) {
      const IVec low = rounded(max(load(from + i), least) * load(scales + i));
      const IVec high = rounded(max(load(from + i + LANES), least) * load(scales + i + LANES));
      store(to + i / 2, narrowed(low, high));
    }
  }
}

}  // namespace synctalk::SYNCTALK_PATH
