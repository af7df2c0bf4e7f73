// Half-precision matrix products of a warp: 16 rows of activations times weights, float32 sums.
//
// Everything stays in the lanes' registers in the layout of the instruction mma.m16n8k16 (PTX ISA, "Matrix fragments
// for mma.m16n8k16"): with g = lane / 4 and t = lane % 4, a lane holds
//
//   activations  a0 = (g, 2t..2t+1)  a1 = (g + 8, 2t..)  a2 = (g, 2t + 8..)  a3 = (g + 8, 2t + 8..)   row, inputs
//   weights      b0 = (g, 2t..2t+1)  b1 = (g, 2t + 8..)                                               output, inputs
//   sums         c0, c1 = (g, 2t..2t+1)  c2, c3 = (g + 8, 2t..)                                       row, outputs
//
// so the sums of two neighbouring tiles of eight outputs, rounded, are the activations of the next layer: networks run
// from layer to layer without leaving the registers. A word is two float16, the first in the low half.
//
// The same code runs on the CPU, where a warp's registers are arrays and the instruction is a loop: HostWarp.
#pragma once

#include <cmath>
#include <cstring>

#include "host_device.h"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

namespace synctalk {

inline constexpr int WARP = 32;
inline constexpr int TILE_ROWS = 16;             // samples of one product
inline constexpr int TILE_OUTPUTS = 8;           // outputs of one product
inline constexpr int STEP_INPUTS = 16;           // inputs of one product
inline constexpr int FRAGMENT_WORDS = 2 * WARP;  // one product's weights
inline constexpr float HALF_MAX = 65504.0f;

// The nearest float16, ties to even; beyond its range the largest one.
SYNCTALK_HD uint16_t half_bits(float value) {
  value = fminf(fmaxf(value, -HALF_MAX), HALF_MAX);
#ifdef __CUDA_ARCH__
  return __half_as_ushort(__float2half_rn(value));
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude < 0x38800000u) {  // subnormal: multiples of 2^-24
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(lrintf(fabsf(value) * 0x1p24f)));
  }
  const uint32_t rounded = magnitude + 0x0fffu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | ((rounded >> 13) - (112u << 10)));
#endif
}

SYNCTALK_HD float half_to_float(uint16_t bits) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(bits));
#else
  uint32_t shifted = static_cast<uint32_t>(bits & 0x7fff) << 13;
  float magnitude;
  std::memcpy(&magnitude, &shifted, sizeof shifted);
  magnitude *= 0x1p112f;  // the exponents' biases differ by so much
  return bits & 0x8000 ? -magnitude : magnitude;
#endif
}

SYNCTALK_HD uint32_t pack_halves(float first, float second) {
#ifdef __CUDA_ARCH__
  // One instruction for both.
  const __half2 pair =
      __floats2half2_rn(fminf(fmaxf(first, -HALF_MAX), HALF_MAX), fminf(fmaxf(second, -HALF_MAX), HALF_MAX));
  return static_cast<uint32_t>(__half_as_ushort(__low2half(pair))) |
         static_cast<uint32_t>(__half_as_ushort(__high2half(pair))) << 16;
#else
  return half_bits(first) | static_cast<uint32_t>(half_bits(second)) << 16;
#endif
}

// Row, or output, and first of two inputs or outputs of a lane.
SYNCTALK_HD int lane_row(int lane) { return lane / 4; }
SYNCTALK_HD int lane_column(int lane) { return lane % 4 * 2; }

// Which weights a word of a matrix holds: inputs k and k + 1 of an output.
struct WeightPlace {
  int output, input;
};

SYNCTALK_HD WeightPlace place_of_word(int word, int n_tiles) {
  const int fragment = word / FRAGMENT_WORDS, lane = word % FRAGMENT_WORDS / 2;
  return {fragment % n_tiles * TILE_OUTPUTS + lane_row(lane),
          fragment / n_tiles * STEP_INPUTS + lane_column(lane) + word % 2 * 8};
}

struct Activations {
  uint32_t word[4];
};

struct Sums {
  float value[4];
};

struct Weights {
  uint32_t word[2];
};

// A warp on the CPU: what all lanes hold is an array.
struct HostWarp {
  int index;

  template <class T>
  struct Lanes {
    T of[WARP];
    T& operator[](int lane) { return of[lane]; }
  };

  // Calls body(lane) for every lane. What lanes read that others wrote before needs a sync() in between.
  template <class Body>
  void each(Body body) const {
    for (int lane = 0; lane < WARP; ++lane) body(lane);
  }
  void sync() const {}

  // sums += activations * weights; `pick` takes these from what a lane holds.
  template <class S, class A, class PickSums, class PickActivations>
  void multiply(S& sums, PickSums pick_sums, A& activations, PickActivations pick_activations,
                Lanes<Weights>& weights) const {
    for (int lane = 0; lane < WARP; ++lane) {
      for (int c = 0; c < 4; ++c) {
        const int row = lane_row(lane) + c / 2 * 8, output = lane_column(lane) + c % 2;
        float sum = 0.0f;
        for (int k = 0; k < STEP_INPUTS; ++k) {
          const int t = k % 8 / 2, half = k % 2 * 16;
          const uint32_t a = pick_activations(activations[row % 8 * 4 + t]).word[row / 8 + k / 8 * 2] >> half;
          const uint32_t b = weights[output * 4 + t].word[k / 8] >> half;
          sum += half_to_float(static_cast<uint16_t>(a)) * half_to_float(static_cast<uint16_t>(b));
        }
        pick_sums(sums[lane]).value[c] += sum;
      }
    }
  }
};

#ifdef __CUDACC__
// A warp on the GPU: every thread is a lane and holds its own.
struct DeviceWarp {
  int index;

  template <class T>
  struct Lanes {
    T own;
    SYNCTALK_HD T& operator[](int) { return own; }
  };

  template <class Body>
  SYNCTALK_HD void each(Body body) const {
#ifdef __CUDA_ARCH__
    body(static_cast<int>(threadIdx.x) % WARP);
#endif
  }
  SYNCTALK_HD void sync() const {
#ifdef __CUDA_ARCH__
    __syncwarp();
#endif
  }

  template <class S, class A, class PickSums, class PickActivations>
  SYNCTALK_HD void multiply(S& sums, PickSums pick_sums, A& activations, PickActivations pick_activations,
                            Lanes<Weights>& weights) const {
#ifdef __CUDA_ARCH__
    float* c = pick_sums(sums.own).value;
    const uint32_t* a = pick_activations(activations.own).word;
    const uint32_t* b = weights.own.word;
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else  // Turing: eight inputs at a time, the halves of the same fragments
    for (int k = 0; k < 2; ++k) {
      asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                   : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                   : "r"(a[2 * k]), "r"(a[2 * k + 1]), "r"(b[k]));
    }
#endif
#endif
  }
};
#endif

}  // namespace synctalk
