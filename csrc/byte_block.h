// Layers with 7-bit activations and 8-bit weights, for one instruction set; see quantised_net.h.
//
// Words hold quads: four activations of a sample, 0..127, or four weights. Where there is no instruction that adds four
// products to a sum of 32 bits (VNNI), the products of a group of quads are added in 16 bits first: weights are scaled
// so that this cannot overflow, and every path gets the same integers.
#pragma once

#include "quantised_block.h"

namespace synctalk::SYNCTALK_PATH {

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || !defined(__AVX2__)
constexpr int QUADS_AT_ONCE = 1;
constexpr int BYTE_SAMPLE_VECS = SAMPLE_VECS;
#else
constexpr int QUADS_AT_ONCE = QUAD_GROUP;
constexpr int BYTE_SAMPLE_VECS = LANES == 16 ? 2 : 1;
#endif

// Adds the products of QUADS_AT_ONCE quads of activations and weights.
static inline void add_quads(IVec& sum, const IVec* left, const IVec* right) {
#if defined(__AVX512VNNI__)  // Inline assembly: compilers copy the accumulator of these intrinsics.
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(left[0]), "v"(right[0]));
#elif defined(__AVXVNNI__)
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(left[0]), "x"(right[0]));
#elif defined(__AVX512BW__)
  const auto products = [&](int i) {
    return _mm512_maddubs_epi16(reinterpret_cast<__m512i>(left[i]), reinterpret_cast<__m512i>(right[i]));
  };
  __m512i group = products(0);
#pragma GCC unroll 4
  for (int i = 1; i < QUADS_AT_ONCE; ++i) group = _mm512_add_epi16(group, products(i));
  sum += reinterpret_cast<IVec>(_mm512_madd_epi16(group, _mm512_set1_epi16(1)));
#elif defined(__AVX2__)
  const auto products = [&](int i) {
    return _mm256_maddubs_epi16(reinterpret_cast<__m256i>(left[i]), reinterpret_cast<__m256i>(right[i]));
  };
  __m256i group = products(0);
#pragma GCC unroll 4
  for (int i = 1; i < QUADS_AT_ONCE; ++i) group = _mm256_add_epi16(group, products(i));
  sum += reinterpret_cast<IVec>(_mm256_madd_epi16(group, _mm256_set1_epi16(1)));
#else
  const IVec a = left[0], b = right[0];
  sum += (a & 0xff) * ((b << 24) >> 24) + ((a >> 8) & 0xff) * ((b << 16) >> 24) +
         ((a >> 16) & 0xff) * ((b << 8) >> 24) + ((a >> 24) & 0xff) * (b >> 24);
#endif
}

// Four activations of each sample, cut to 0..127, as quads.
static inline IVec quads_of(IVec a, IVec b, IVec c, IVec d) {
#if defined(__AVX512BW__)
  const auto pair = [](IVec low, IVec high) {
    return _mm512_packs_epi32(reinterpret_cast<__m512i>(low), reinterpret_cast<__m512i>(high));
  };
  const __m512i bytes = _mm512_max_epi8(_mm512_packs_epi16(pair(a, b), pair(c, d)), _mm512_setzero_si512());
  const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  return reinterpret_cast<IVec>(_mm512_shuffle_epi8(bytes, order));
#elif defined(__AVX2__)
  const auto pair = [](IVec low, IVec high) {
    return _mm256_packs_epi32(reinterpret_cast<__m256i>(low), reinterpret_cast<__m256i>(high));
  };
  const __m256i bytes = _mm256_max_epi8(_mm256_packs_epi16(pair(a, b), pair(c, d)), _mm256_setzero_si256());
  const __m256i order =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  return reinterpret_cast<IVec>(_mm256_shuffle_epi8(bytes, order));
#else
  const auto cut = [](IVec value) { return min(max(value, IVec{}), splat(BYTE_TOP)); };
  return cut(a) | (cut(b) << 8) | (cut(c) << 16) | (cut(d) << 24);
#endif
}

// One layer with samples in the lanes: finish(first output, first sample, sums [4][VECS]) for all outputs.
template <int VECS, class Finish>
[[gnu::noinline]] static void multiply_byte_samples(const ByteLayer& layer, const int32_t* in, int sample,
                                                    const Finish& finish) {
  const int32_t* weights = layer.lanes_of_samples;
  for (int output = 0; output < layer.n_out; output += QUANTISED_OUTPUTS) {
    IVec sum[QUANTISED_OUTPUTS][VECS] = {};
    const int32_t* from = in + sample;
    for (int k = 0; k < layer.n_quads; k += QUADS_AT_ONCE) {
      IVec left[VECS][QUADS_AT_ONCE];
#pragma GCC unroll 4
      for (int i = 0; i < QUADS_AT_ONCE; ++i) {
#pragma GCC unroll 4
        for (int v = 0; v < VECS; ++v) left[v][i] = load(from + i * FIELD_BLOCK + v * LANES);
      }
#pragma GCC unroll 4
      for (int o = 0; o < QUANTISED_OUTPUTS; ++o) {
        IVec right[QUADS_AT_ONCE];
#pragma GCC unroll 4
        for (int i = 0; i < QUADS_AT_ONCE; ++i) right[i] = splat(weights[i * QUANTISED_OUTPUTS + o]);
#pragma GCC unroll 4
        for (int v = 0; v < VECS; ++v) add_quads(sum[o][v], left[v], right);
      }
      from += QUADS_AT_ONCE * FIELD_BLOCK;
      weights += QUADS_AT_ONCE * QUANTISED_OUTPUTS;
    }
    finish(output, sample, sum);
  }
}

template <class Finish>
static void multiply_byte_block(const ByteLayer& layer, const int32_t* in, int n_rows, const Finish& finish) {
  int sample = 0;
  for (; sample + (BYTE_SAMPLE_VECS - 1) * LANES < n_rows; sample += BYTE_SAMPLE_VECS * LANES) {
    multiply_byte_samples<BYTE_SAMPLE_VECS>(layer, in, sample, finish);
  }
  for (; sample < n_rows; sample += LANES) multiply_byte_samples<1>(layer, in, sample, finish);
}

// A hidden layer from pairs of 16 bits to quads.
static void pairs_to_quads(const QuantisedLayer& layer, const int32_t* in, int n_rows, int32_t* out) {
  multiply_block(layer, in, n_rows, [&](int output, int sample, const auto& sum) {
    int32_t* to = out + output / 4 * FIELD_BLOCK + sample;
    int v = 0;
    for (const IVec& first : sum[0]) {
      store(to + v * LANES, quads_of(first >> layer.shift, sum[1][v] >> layer.shift, sum[2][v] >> layer.shift,
                                     sum[3][v] >> layer.shift));
      ++v;
    }
  });
}

// A hidden layer: quads to quads.
static void quads_to_quads(const ByteLayer& layer, const int32_t* in, int n_rows, int32_t* out) {
  multiply_byte_block(layer, in, n_rows, [&](int output, int sample, const auto& sum) {
    const auto value = [&](int o, IVec total) {
      return rounded(__builtin_convertvector(total, Vec) * splat(layer.scales[output + o]));
    };
    int32_t* to = out + output / 4 * FIELD_BLOCK + sample;
    int v = 0;
    for (const IVec& first : sum[0]) {
      store(to + v * LANES, quads_of(value(0, first), value(1, sum[1][v]), value(2, sum[2][v]), value(3, sum[3][v])));
      ++v;
    }
  });
}

// ROWS samples of a layer with outputs in the lanes: float rows [n_rows][padded(n_out)].
template <int ROWS, int VECS>
[[gnu::noinline]] static void multiply_byte_outputs(const ByteLayer& layer, int output, const int32_t* in, int n_rows,
                                                    float* out) {
  const long stride = padded(layer.n_out);
  for (int r = 0; r < n_rows; r += ROWS) {
    IVec sum[ROWS][VECS] = {};
    const int32_t *weights = layer.lanes_of_outputs + output, *from = in + r;
    for (int k = 0; k < layer.n_quads; k += QUADS_AT_ONCE) {
#pragma GCC unroll 4
      for (int i = 0; i < ROWS; ++i) {
        IVec left[QUADS_AT_ONCE];
#pragma GCC unroll 4
        for (int q = 0; q < QUADS_AT_ONCE; ++q) left[q] = splat(from[q * FIELD_BLOCK + i]);
#pragma GCC unroll 4
        for (int v = 0; v < VECS; ++v) {
          IVec right[QUADS_AT_ONCE];
#pragma GCC unroll 4
          for (int q = 0; q < QUADS_AT_ONCE; ++q) right[q] = load(weights + q * stride + v * LANES);
          add_quads(sum[i][v], left, right);
        }
      }
      from += QUADS_AT_ONCE * FIELD_BLOCK;
      weights += QUADS_AT_ONCE * stride;
    }
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < VECS; ++v) {
        const int at = output + v * LANES;
        store(out + (r + i) * stride + at, __builtin_convertvector(sum[i][v], Vec) * load(layer.scales + at));
      }
    }
  }
}

// A last layer: quads to float rows [n_rows, even][padded(n_out)].
static void quads_to_rows(const ByteLayer& layer, const int32_t* in, int n_rows, float* out) {
  int output = 0;
  for (; output + LANES < layer.n_out; output += 2 * LANES) {
    multiply_byte_outputs<2, 2>(layer, output, in, n_rows, out);
  }
  for (; output < layer.n_out; output += LANES) multiply_byte_outputs<2, 1>(layer, output, in, n_rows, out);
}

// From positions of a block to the rows of the density network's output, as `decode_quantised` does.
static void decode_bytes(const FieldNet& field, const QuantisedNet& net, const float* drive, const float* axes,
                         const QuantisedSpace& space, int n_rows, float* out) {
  encode_quads(net, axes, (n_rows + ENCODE_ROWS - 1) / ENCODE_ROWS * ENCODE_ROWS, space.in);
  pairs_to_quads(net.attention[0], space.in, n_rows, space.attended);
  const auto scale_of = [&](int o) { return net.byte_gate.scales[o]; };
  multiply_byte_block(net.byte_gate, space.attended, n_rows,
                      gate_finish(field.is_sigmoid, drive, net.gated_scale, scale_of,
                                  space.in + (field.n_encoded + 1) / 2 * FIELD_BLOCK));
  pairs_to_quads(net.density[0], space.in, n_rows, space.hidden[0]);
  const int last = field.n_density - 1;
  for (int i = 1; i < last; ++i) {
    quads_to_quads(net.byte_density[i], space.hidden[(i - 1) & 1], n_rows, space.hidden[i & 1]);
  }
  quads_to_rows(net.byte_density[last], space.hidden[(last - 1) & 1], n_rows, out);
}

}  // namespace synctalk::SYNCTALK_PATH
