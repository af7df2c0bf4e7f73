// The one matrix kernel of the field: c[r][n] = sum over k of a[r, k] * b[k][n], lanes along n.
//
// With a = activations it is the forward pass (b = weights [in][out]) and the gradient of inputs (b = weights
// [out][in]); with a = gradients read down the samples it is the gradient of weights. Not inlined: inside a larger
// function the accumulators would be spilled.
#pragma once

#include "field_simd.h"

namespace synctalk::SYNCTALK_PATH {

enum class Finish {
  set,   // c = product
  relu,  // c = max(product, 0)
  mask,  // c = product where gate > 0, else 0
  add,   // c += product
};

struct Operand {
  const float* at;
  long row, step;  // distance of rows, and of k
};

template <int ROWS, int VECS, Finish FINISH>
static inline void multiply_tile(int depth, Operand a, const float* b, long b_row, float* c, long c_row,
                                 const float* gate) {
  Vec sum[ROWS][VECS] = {};
  const float *a0 = a.at, *a3 = a.at + 3 * a.row;
  for (int k = 0; k < depth; ++k) {
    Vec right[VECS];
#pragma GCC unroll 8
    for (int v = 0; v < VECS; ++v) right[v] = load(b + v * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const Vec left = splat(r < 3 ? a0[r * a.row] : a3[(r - 3) * a.row]);
#pragma GCC unroll 8
      for (int v = 0; v < VECS; ++v) sum[r][v] = fma(left, right[v], sum[r][v]);
    }
    a0 += a.step;
    a3 += a.step;
    b += b_row;
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < VECS; ++v) {
      float* to = c + r * c_row + v * LANES;
      Vec value = sum[r][v];
      if (FINISH == Finish::relu) value = max(value, Vec{});
      if (FINISH == Finish::mask) value = load(gate + r * c_row + v * LANES) > Vec{} ? value : Vec{};
      if (FINISH == Finish::add) value += load(to);
      store(to, value);
    }
  }
}

// Columns n .. n + VECS * LANES of all rows. `gate` has the strides of c.
template <int VECS, Finish FINISH>
[[gnu::noinline]] static void multiply_columns(int rows, int depth, Operand a, const float* b, long b_row, float* c,
                                               long c_row, const float* gate) {
  while (rows >= 6) {
    multiply_tile<6, VECS, FINISH>(depth, a, b, b_row, c, c_row, gate);
    rows -= 6;
    a.at += 6 * a.row;
    c += 6 * c_row;
    gate += FINISH == Finish::mask ? 6 * c_row : 0;
  }
  for (; rows > 0; rows -= 2) {
    multiply_tile<2, VECS, FINISH>(depth, a, b, b_row, c, c_row, gate);
    a.at += 2 * a.row;
    c += 2 * c_row;
    gate += FINISH == Finish::mask ? 2 * c_row : 0;
  }
}

// rows: even, or with one more row of c that may be overwritten; columns: rounded up to whole vectors.
template <Finish FINISH>
static void multiply(int rows, int columns, int depth, Operand a, const float* b, long b_row, float* c, long c_row,
                     const float* gate = nullptr) {
  constexpr int WIDE = LANES == 16 ? 4 : 2;
  int left = (columns + LANES - 1) / LANES;
  for (; left >= WIDE; left -= WIDE) {
    multiply_columns<WIDE, FINISH>(rows, depth, a, b, b_row, c, c_row, gate);
    b += WIDE * LANES;
    c += WIDE * LANES;
    gate += FINISH == Finish::mask ? WIDE * LANES : 0;
  }
  for (; left > 0; --left) {
    multiply_columns<1, FINISH>(rows, depth, a, b, b_row, c, c_row, gate);
    b += LANES;
    c += LANES;
    gate += FINISH == Finish::mask ? LANES : 0;
  }
}

}  // namespace synctalk::SYNCTALK_PATH
