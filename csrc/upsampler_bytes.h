// Rows of the upsampler with 7-bit activations and 8-bit weights, for one instruction set; see quantised_net.h.
#pragma once

#include "byte_block.h"
#include "upsampler_rows.h"

namespace synctalk::SYNCTALK_PATH {

constexpr int CHANNEL_VECS = BYTE_CHANNELS / LANES;
// Pixels at a time: as many sums as hide the latency of VNNI, or as the registers hold without.
#if defined(__AVX512VNNI__)
constexpr int BYTE_PIXELS = 8;
#elif defined(__AVXVNNI__) || defined(__AVX512BW__)
constexpr int BYTE_PIXELS = 4;
#else
constexpr int BYTE_PIXELS = 2;
#endif
static_assert(BYTE_PIXELS <= BYTE_SPARE, "rows of planes have room for the pixels that are written too many");

// Sixteen channels, cut to 0..127.
static inline void store_channels(uint8_t* out, const IVec* values) {
#if defined(__AVX512BW__)
  const __m512i positive = reinterpret_cast<__m512i>(max(values[0], IVec{}));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtsepi32_epi8(positive));
#elif defined(__AVX2__)
  const __m256i words = _mm256_packs_epi32(reinterpret_cast<__m256i>(values[0]), reinterpret_cast<__m256i>(values[1]));
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  const __m128i ordered = _mm_shuffle_epi32(bytes, 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_max_epi8(ordered, _mm_setzero_si128()));
#else
  for (int i = 0; i < BYTE_CHANNELS; ++i) {
    const int32_t value = values[i / LANES][i % LANES];
    out[i] = static_cast<uint8_t>(value < 0 ? 0 : (value < BYTE_TOP ? value : BYTE_TOP));
  }
#endif
}

// BYTE_CHANNELS outputs, from `first` on, of BYTE_PIXELS pixels from x on.
template <class Finish>
static inline void convolve_pixels(const ByteConvolution& layer, const uint8_t* const rows[3], int x,
                                   const int32_t* weights, const Finish& finish) {
  IVec sum[BYTE_PIXELS][CHANNEL_VECS] = {};
  for (int row = 0; row < 3; ++row) {
    const uint8_t* from = rows[row] + static_cast<long>(x) * layer.n_in;
    for (int k = 0; k < layer.n_quads; k += QUADS_AT_ONCE) {
#pragma GCC unroll 8
      for (int p = 0; p < BYTE_PIXELS; ++p) {
        IVec left[QUADS_AT_ONCE];
#pragma GCC unroll 4
        for (int q = 0; q < QUADS_AT_ONCE; ++q) {
          int32_t quad;
          __builtin_memcpy(&quad, from + static_cast<long>(p) * layer.n_in + 4 * q, sizeof quad);
          left[q] = splat(quad);
        }
#pragma GCC unroll 4
        for (int v = 0; v < CHANNEL_VECS; ++v) {
          IVec right[QUADS_AT_ONCE];
#pragma GCC unroll 4
          for (int q = 0; q < QUADS_AT_ONCE; ++q) right[q] = load(weights + q * BYTE_CHANNELS + v * LANES);
          add_quads(sum[p][v], left, right);
        }
      }
      from += 4 * QUADS_AT_ONCE;
      weights += QUADS_AT_ONCE * BYTE_CHANNELS;
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < BYTE_PIXELS; ++p) finish(x + p, sum[p]);
}

// finish(pixel, first channel, values) for all channels of n pixels and up to BYTE_SPARE more.
template <class Finish>
static inline void convolve_channels(const ByteConvolution& layer, const uint8_t* const rows[3], int n,
                                     const Finish& finish) {
  for (int first = 0; first < layer.n_out; first += BYTE_CHANNELS) {
    const int32_t* weights = layer.weights + static_cast<long>(first) * 3 * layer.n_quads;
    const float* scales = layer.scales + first;
    for (int x = 0; x < n; x += BYTE_PIXELS) {
      convolve_pixels(layer, rows, x, weights, [&](int pixel, const IVec* sum) {
        Vec values[CHANNEL_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < CHANNEL_VECS; ++v) {
          values[v] = __builtin_convertvector(sum[v], Vec) * load(scales + v * LANES);
        }
        finish(pixel, first, values);
      });
    }
  }
}

static inline void store_rounded(uint8_t* out, const Vec* values) {
  IVec whole[CHANNEL_VECS];
#pragma GCC unroll 4
  for (int v = 0; v < CHANNEL_VECS; ++v) whole[v] = rounded(values[v]);
  store_channels(out, whole);
}

[[gnu::noinline]] static void convolve_hidden_bytes(const ByteConvolution& layer, const uint8_t* const rows[3], int n,
                                                    uint8_t* out) {
  convolve_channels(layer, rows, n, [&](int pixel, int first, const Vec* values) {
    store_rounded(out + static_cast<long>(pixel) * layer.n_out + first, values);
  });
}

[[gnu::noinline]] static void convolve_bytes(const ByteConvolution& layer, const uint8_t* const rows[3], int n,
                                             float* out) {
  convolve_channels(layer, rows, n, [&](int pixel, int first, const Vec* values) {
    float* to = out + static_cast<long>(pixel) * layer.n_out + first;
#pragma GCC unroll 4
    for (int v = 0; v < CHANNEL_VECS; ++v) store(to + v * LANES, values[v]);
  });
}

static void modulate_bytes(const Modulation& by, const float* values, const float* alpha, int n, uint8_t* out) {
  for (int i = 0; i < n; ++i, values += by.n_channels, out += by.n_channels) {
    for (int c = 0; c < by.n_channels; c += BYTE_CHANNELS) {
      Vec found[CHANNEL_VECS];
#pragma GCC unroll 4
      for (int v = 0; v < CHANNEL_VECS; ++v) found[v] = modulated(by, values, c + v * LANES, alpha[i]);
      store_rounded(out + c, found);
    }
  }
}

static void halve_bytes(const uint8_t* upper, const uint8_t* lower, int n, int n_channels, uint8_t* out) {
  for (int i = 0; i < n; ++i, upper += 2 * n_channels, lower += 2 * n_channels, out += n_channels) {
    for (int c = 0; c < n_channels; ++c) {
      out[c] = static_cast<uint8_t>((upper[c] + upper[n_channels + c] + lower[c] + lower[n_channels + c] + 2) >> 2);
    }
  }
}

typedef uint8_t LaneBytes __attribute__((vector_size(LANES)));

static inline Vec widened(const uint8_t* bytes) {
  LaneBytes lanes;
  __builtin_memcpy(&lanes, bytes, sizeof lanes);
  return __builtin_convertvector(lanes, Vec);
}

static void merge_bytes(const float* coarse, const float* alpha, float ratio, int n_channels, int begin, int end,
                        uint8_t* side) {
  for (int x = begin; x < end; ++x) {
    const float* from = coarse + static_cast<long>(x / 2) * n_channels;
    uint8_t* to = side + static_cast<long>(x) * n_channels;
    for (int c = 0; c < n_channels; c += BYTE_CHANNELS) {
      Vec found[CHANNEL_VECS];
#pragma GCC unroll 4
      for (int v = 0; v < CHANNEL_VECS; ++v) {
        const int at = c + v * LANES;
        found[v] = widened(to + at) * ratio + load(from + at) * splat(alpha[x]);
      }
      store_rounded(to + c, found);
    }
  }
}

}  // namespace synctalk::SYNCTALK_PATH
