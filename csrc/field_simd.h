// Vectors of floats for the kernels that are compiled once per instruction set.
//
// A translation unit defines SYNCTALK_PATH (portable, avx2, avx512), is compiled with that path's flags, and then
// includes the kernel headers. Everything lives in synctalk::SYNCTALK_PATH and touches no inline function of the
// standard library, so that the linker can never put AVX code into another path.
#pragma once

#include <cstdint>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace synctalk::SYNCTALK_PATH {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int32_t IVec __attribute__((vector_size(LANES * 4)));
typedef uint32_t UVec __attribute__((vector_size(LANES * 4)));
typedef float LooseVec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t LooseIVec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

static inline Vec load(const float* p) { return *reinterpret_cast<const LooseVec*>(p); }
static inline IVec load(const int32_t* p) { return *reinterpret_cast<const LooseIVec*>(p); }
static inline void store(float* p, Vec v) { *reinterpret_cast<LooseVec*>(p) = v; }
static inline void store(int32_t* p, IVec v) { *reinterpret_cast<LooseIVec*>(p) = v; }
static inline Vec splat(float x) { return x - Vec{}; }

// The second where one is not a number. Compilers make a comparison and a blend of `a > b ? a : b`.
#if defined(__AVX512F__)
static inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
static inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
#elif defined(__AVX2__)
static inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
static inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
#else
static inline Vec max(Vec a, Vec b) { return a > b ? a : b; }
static inline Vec min(Vec a, Vec b) { return a < b ? a : b; }
#endif

static inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

static inline Vec gather(const float* base, IVec index) {
#if defined(__AVX512F__)
  return _mm512_i32gather_ps(reinterpret_cast<__m512i>(index), base, 4);
#elif defined(__AVX2__)
  return _mm256_i32gather_ps(base, reinterpret_cast<__m256i>(index), 4);
#else
  int32_t at[LANES];
  store(at, index);
  Vec v;
#pragma GCC unroll 16
  for (int i = 0; i < LANES; ++i) v[i] = base[at[i]];
  return v;
#endif
}

// exp(x) with a relative error below 2e-7; x is clamped to +-87.
static inline Vec exp(Vec x) {
  x = min(max(x, splat(-87.0f)), splat(87.0f));
  const Vec scaled = x * splat(1.44269504f);
  const IVec n = __builtin_convertvector(scaled + (scaled > Vec{} ? splat(0.5f) : splat(-0.5f)), IVec);
  const Vec whole = __builtin_convertvector(n, Vec);
  const Vec r = fma(whole, splat(2.12194440e-4f), fma(whole, splat(-0.693359375f), x));
  Vec p = splat(1.0f / 5040);
  p = fma(p, r, splat(1.0f / 720));
  p = fma(p, r, splat(1.0f / 120));
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  return p * reinterpret_cast<Vec>((n + 127) << 23);
}

static inline Vec sigmoid(Vec x) { return splat(1.0f) / (splat(1.0f) + exp(-x)); }

}  // namespace synctalk::SYNCTALK_PATH
