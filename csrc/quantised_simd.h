// Vectors of integers for the field's integer kernels, for one instruction set; see field_simd.h.
#pragma once

#include "field_block.h"
#include "quantised_net.h"

namespace synctalk::SYNCTALK_PATH {

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

}  // namespace synctalk::SYNCTALK_PATH
