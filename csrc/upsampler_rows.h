// Rows of the upsampler, for one instruction set.
#pragma once

#include "field_matrix.h"
#include "upsampler_net.h"

namespace synctalk::SYNCTALK_PATH {

static void convolve(const Convolution& layer, const float* const rows[3], int n, float* out) {
  // Three neighbours lie one behind the other: a row of the kernel is one product of matrices.
  const int depth = 3 * layer.n_in, columns = layer.n_out, pixels = (n + 1) & ~1;
  const long kernel_row = static_cast<long>(depth) * columns;
  const auto operand = [&](int i) { return Operand{rows[i], layer.n_in, 1}; };
  multiply<Finish::set>(pixels, columns, depth, operand(0), layer.weights, columns, out, columns);
  multiply<Finish::add>(pixels, columns, depth, operand(1), layer.weights + kernel_row, columns, out, columns);
  multiply<Finish::add>(pixels, columns, depth, operand(2), layer.weights + 2 * kernel_row, columns, out, columns);
}

static void convolve_hidden(const Convolution& layer, const float* const rows[3], int n, float* out) {
  convolve(layer, rows, n, out);
  const long n_values = static_cast<long>((n + 1) & ~1) * layer.n_out;
  for (long i = 0; i < n_values; i += LANES) store(out + i, max(load(out + i), Vec{}));
}

static inline Vec modulated(const Modulation& by, const float* values, int channel, float alpha) {
  return load(values + channel) * load(by.gains + channel) + load(by.shifts + channel) * splat(alpha);
}

static void modulate(const Modulation& by, const float* values, const float* alpha, int n, float* out) {
  for (int i = 0; i < n; ++i, values += by.n_channels, out += by.n_channels) {
    for (int c = 0; c < by.n_channels; c += LANES) store(out + c, max(modulated(by, values, c, alpha[i]), Vec{}));
  }
}

static void halve(const float* upper, const float* lower, int n, int n_channels, float* out) {
  for (int i = 0; i < n; ++i, upper += 2 * n_channels, lower += 2 * n_channels, out += n_channels) {
    for (int c = 0; c < n_channels; c += LANES) {
      const Vec above = load(upper + c) + load(upper + n_channels + c);
      store(out + c, (above + load(lower + c) + load(lower + n_channels + c)) * 0.25f);
    }
  }
}

static void merge(const float* coarse, const float* alpha, float ratio, int n_channels, int begin, int end,
                  float* side) {
  for (int x = begin; x < end; ++x) {
    const float* from = coarse + static_cast<long>(x / 2) * n_channels;
    float* to = side + static_cast<long>(x) * n_channels;
    for (int c = 0; c < n_channels; c += LANES) {
      store(to + c, max(load(to + c) * ratio + load(from + c) * splat(alpha[x]), Vec{}));
    }
  }
}

typedef float Pixel __attribute__((vector_size(16)));
typedef float LoosePixel __attribute__((vector_size(16), aligned(4), may_alias));

static inline Pixel pixel_at(const float* row, int i) {
  return *reinterpret_cast<const LoosePixel*>(row + static_cast<long>(UPSAMPLER_PIXEL) * i);
}

// A pixel between three quarters of a nearer and a quarter of a farther one, with its details, in 0..1.
static inline void put(float* out, int i, Pixel near, Pixel far, Pixel detail) {
  const Pixel zero{}, one = zero + 1.0f;
  Pixel value = near * 0.75f + far * 0.25f + detail;
  value = value > zero ? value : zero;
  *reinterpret_cast<LoosePixel*>(out + static_cast<long>(UPSAMPLER_PIXEL) * i) = value < one ? value : one;
}

static void enlarge(const float* const rows[3], const float* details, int n, float* upper, float* lower) {
  for (int i = 0; i < n; ++i) {
    const float* detail = details + static_cast<long>(UPSAMPLER_OUT) * i;
    for (int below = 0; below < 2; ++below) {
      Pixel column[3];
      for (int k = 0; k < 3; ++k)
        column[k] = pixel_at(rows[1], i + k) * 0.75f + pixel_at(rows[2 * below], i + k) * 0.25f;
      float* out = below ? lower : upper;
      put(out, 2 * i, column[1], column[0], pixel_at(detail, 2 * below));
      put(out, 2 * i + 1, column[1], column[2], pixel_at(detail, 2 * below + 1));
    }
  }
}

}  // namespace synctalk::SYNCTALK_PATH
