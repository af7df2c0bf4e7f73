// What the upsampler keeps between its layers: pictures with edges, and where their rows have anything.
#pragma once

#include <algorithm>
#include <vector>

#include "upsampler_net.h"

namespace synctalk {

// Pixels [begin, end) of a row; none where end <= begin.
struct Span {
  int begin, end;
  bool is_empty() const { return end <= begin; }
};

inline Span joined(Span a, Span b) {
  if (a.is_empty()) return b;
  return b.is_empty() ? a : Span{std::min(a.begin, b.begin), std::max(a.end, b.end)};
}

// Where each row has anything.
inline std::vector<Span> spans_of(const float* small, int height, int width) {
  std::vector<Span> spans(height);
  for (int y = 0; y < height; ++y) {
    const float* row = small + static_cast<long>(y) * width * UPSAMPLER_PIXEL;
    const float* end = row + static_cast<long>(width) * UPSAMPLER_PIXEL;
    const auto is_set = [](float value) { return value != 0.0f; };
    const float* first = std::find_if(row, end, is_set);
    if (first == end) continue;
    while (end[-1] == 0.0f) --end;
    spans[y] = {static_cast<int>(first - row) / UPSAMPLER_PIXEL,
                static_cast<int>(end - row + UPSAMPLER_PIXEL - 1) / UPSAMPLER_PIXEL};
  }
  return spans;
}

// What a convolution of 3 x 3 makes of them.
inline std::vector<Span> grown(const std::vector<Span>& spans, int width) {
  std::vector<Span> wider(spans.size());
  for (size_t y = 0; y < spans.size(); ++y) {
    Span span = spans[y];
    if (y > 0) span = joined(span, spans[y - 1]);
    if (y + 1 < spans.size()) span = joined(span, spans[y + 1]);
    if (!span.is_empty()) wider[y] = {std::max(0, span.begin - 1), std::min(width, span.end + 1)};
  }
  return wider;
}

// What halving makes of them.
inline std::vector<Span> halved(const std::vector<Span>& spans) {
  std::vector<Span> half(spans.size() / 2);
  for (size_t y = 0; y < half.size(); ++y) {
    const Span both = joined(spans[2 * y], spans[2 * y + 1]);
    if (!both.is_empty()) half[y] = {both.begin / 2, (both.end + 1) / 2};
  }
  return half;
}

// A picture of some channels with a pixel around it, and room for those that kernels write behind a row.
template <class Value>
struct Plane {
  Value* data;
  int width, n_channels;

  static int row_pixels(int width) { return width + 2 + BYTE_SPARE; }
  // With a row to spare, as rows are read a little beyond their ends.
  static long n_values(int height, int width, int n_channels) {
    return static_cast<long>(height + 3) * row_pixels(width) * n_channels;
  }
  Value* pixel(int y, int x) const {
    return data + (static_cast<long>(y + 1) * row_pixels(width) + x + 1) * n_channels;
  }
  void clear(int y, int begin, int end) const { std::fill(pixel(y, begin), pixel(y, std::max(begin, end)), Value{0}); }
  // What a convolution does not make of a row: everything but the span, as far as the next one looks.
  void clear_around(int y, Span span) const {
    clear(y, -1, span.is_empty() ? width + 2 : span.begin);
    if (!span.is_empty()) clear(y, span.end, width + 2);
  }
  // The rows above, at and below, from the pixel before x on.
  void rows_at(int y, int x, const Value* rows[3]) const {
    for (int k = 0; k < 3; ++k) rows[k] = pixel(y + k - 1, x - 1);
  }
};

}  // namespace synctalk
