// The loops of one instruction set; see field_simd.h for how such headers are used.
#pragma once

#include "field_simd.h"
#include "peak.h"

namespace synctalk::SYNCTALK_PATH {

// Chains enough to hide the latency of every unit, few enough for 16 registers.
constexpr int PEAK_CHAINS = 10;

static bool always() { return true; }

// Hides a value from the optimiser, so that no product is computed once for all turns.
template <class V>
static inline __attribute__((always_inline)) void hide(V& value) {
#if defined(__x86_64__)
  asm volatile("" : "+x"(value));
#else
  asm volatile("" : "+m"(value));
#endif
}

template <class V, class Step>
static inline __attribute__((always_inline)) void turn_chains(int64_t turns, V a, V b, Step step) {
  V chains[PEAK_CHAINS] = {};
  for (int64_t turn = 0; turn < turns; ++turn) {
#pragma GCC unroll 16
    for (int i = 0; i < PEAK_CHAINS; ++i) {
      hide(a);
      chains[i] = step(a, b, chains[i]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < PEAK_CHAINS; ++i) hide(chains[i]);
}

[[gnu::noinline]] static void turn_fp32(int64_t turns) {
  turn_chains(turns, splat(0.5f), splat(0.25f), [](Vec a, Vec b, Vec sum) { return fma(a, b, sum); });
}

#if defined(__AVX512F__)

static bool has_vnni() { return __builtin_cpu_supports("avx512vnni"); }
static bool has_bf16() { return __builtin_cpu_supports("avx512bf16"); }

// Inline assembly: compilers copy the accumulator of these intrinsics, and older ones do not know them all.
[[gnu::noinline]] static void turn_int8(int64_t turns) {
  turn_chains(turns, IVec{} + 1, IVec{} + 2, [](IVec a, IVec b, IVec sum) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  });
}

[[gnu::noinline]] static void turn_int16(int64_t turns) {
  turn_chains(turns, IVec{} + 1, IVec{} + 2, [](IVec a, IVec b, IVec sum) {
#if defined(__AVX512VNNI__)
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
#else
    return sum + reinterpret_cast<IVec>(
                     _mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#endif
  });
}

[[gnu::noinline]] static void turn_bf16(int64_t turns) {
  turn_chains(turns, IVec{}, IVec{}, [](IVec a, IVec b, IVec sum) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  });
}

constexpr PeakLoop PEAK_LOOPS[] = {
    {"fp32", PEAK_CHAINS * LANES, always, turn_fp32},
    {"bf16", PEAK_CHAINS * LANES * 2, has_bf16, turn_bf16},
#if defined(__AVX512VNNI__)
    {"int16", PEAK_CHAINS * LANES * 2, has_vnni, turn_int16},
#else
    {"int16", PEAK_CHAINS * LANES * 2, always, turn_int16},
#endif
    {"int8", PEAK_CHAINS * LANES * 4, has_vnni, turn_int8},
};

#elif defined(__AVX2__)

#if defined(__AVXVNNI__)
constexpr int BYTE_GROUP = 1;
[[gnu::noinline]] static void turn_int8(int64_t turns) {
  turn_chains(turns, _mm256_set1_epi8(1), _mm256_set1_epi8(2), [](__m256i a, __m256i b, __m256i sum) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
    return sum;
  });
}
#else
constexpr int BYTE_GROUP = 4;  // products that are added in 16 bits before they are widened, as in byte_block.h
[[gnu::noinline]] static void turn_int8(int64_t turns) {
  const __m256i ones = _mm256_set1_epi16(1);
  turn_chains(turns, _mm256_set1_epi8(1), _mm256_set1_epi8(2), [ones](__m256i a, __m256i b, __m256i sum) {
    __m256i group = _mm256_maddubs_epi16(a, b);
#pragma GCC unroll 4
    for (int i = 1; i < BYTE_GROUP; ++i) {
      hide(a);
      group = _mm256_add_epi16(group, _mm256_maddubs_epi16(a, b));
    }
    return _mm256_add_epi32(sum, _mm256_madd_epi16(group, ones));
  });
}
#endif

[[gnu::noinline]] static void turn_int16(int64_t turns) {
  turn_chains(turns, _mm256_set1_epi16(1), _mm256_set1_epi16(2), [](__m256i a, __m256i b, __m256i sum) {
#if defined(__AVXVNNI__)
    asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
    return sum;
#else
                return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
#endif
  });
}

constexpr PeakLoop PEAK_LOOPS[] = {
    {"fp32", PEAK_CHAINS * LANES, always, turn_fp32},
    {"int16", PEAK_CHAINS * LANES * 2, always, turn_int16},
    {"int8", PEAK_CHAINS * LANES * 4 * BYTE_GROUP, always, turn_int8},
};

#else

constexpr PeakLoop PEAK_LOOPS[] = {{"fp32", PEAK_CHAINS * LANES, always, turn_fp32}};

#endif

extern const PeakPath peak_path;
const PeakPath peak_path{PEAK_LOOPS, sizeof PEAK_LOOPS / sizeof PEAK_LOOPS[0]};

}  // namespace synctalk::SYNCTALK_PATH
