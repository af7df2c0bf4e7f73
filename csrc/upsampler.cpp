#include "upsampler.h"

#include <algorithm>

#include "simd.h"
#include "threads.h"

namespace synctalk {

namespace portable {
extern const UpsamplerPath upsampler_path;
}
#ifdef SYNCTALK_X86
namespace avx2 {
extern const UpsamplerPath upsampler_path;
}
namespace avx512 {
extern const UpsamplerPath upsampler_path;
}
#else
namespace avx2 = portable;
namespace avx512 = portable;
#endif

namespace {

constexpr int64_t kGrain = 4;  // rows

// Pixels [begin, end) of a row; none where end <= begin.
struct Span {
  int begin, end;
  bool is_empty() const { return end <= begin; }
};

Span joined(Span a, Span b) {
  if (a.is_empty()) return b;
  return b.is_empty() ? a : Span{std::min(a.begin, b.begin), std::max(a.end, b.end)};
}

// Where each row has anything.
std::vector<Span> spans_of(const float* small, int height, int width) {
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
std::vector<Span> grown(const std::vector<Span>& spans, int width) {
  std::vector<Span> wider(spans.size());
  for (size_t y = 0; y < spans.size(); ++y) {
    Span span = spans[y];
    if (y > 0) span = joined(span, spans[y - 1]);
    if (y + 1 < spans.size()) span = joined(span, spans[y + 1]);
    if (!span.is_empty()) wider[y] = {std::max(0, span.begin - 1), std::min(width, span.end + 1)};
  }
  return wider;
}

// A picture of some channels with a pixel around it, and two more on the right that may be written.
struct Plane {
  float* data;
  int width, n_channels;
  long row_floats() const { return static_cast<long>(width + 4) * n_channels; }
  float* pixel(int y, int x) const { return data + (y + 1) * row_floats() + static_cast<long>(x + 1) * n_channels; }
  void clear(int y, int begin, int end) const { std::fill(pixel(y, begin), pixel(y, std::max(begin, end)), 0.0f); }
};

long plane_floats(int height, int width, int n_channels) {
  return static_cast<long>(height + 2) * (width + 4) * n_channels;
}

void copy_with_edges(const float* small, int height, int width, const Plane& plane) {
  for (int y = -1; y <= height; ++y) {
    const float* row = small + static_cast<long>(std::clamp(y, 0, height - 1)) * width * UPSAMPLER_PIXEL;
    const float* last = row + static_cast<long>(width - 1) * UPSAMPLER_PIXEL;
    std::copy_n(row, UPSAMPLER_PIXEL, plane.pixel(y, -1));
    std::copy_n(row, static_cast<long>(width) * UPSAMPLER_PIXEL, plane.pixel(y, 0));
    for (int x = width; x < width + 3; ++x) std::copy_n(last, UPSAMPLER_PIXEL, plane.pixel(y, x));
  }
}

}  // namespace

Upsampler::Upsampler(const std::vector<Layer>& layers) : widest_(UPSAMPLER_OUT) {
  for (const Layer& layer : layers) {
    const int columns = (layer.n_out + FIELD_ALIGN - 1) / FIELD_ALIGN * FIELD_ALIGN;
    float* packed = weights_.emplace_back(std::make_unique<Floats>(9L * layer.n_in * columns))->data();
    for (int tap = 0; tap < 9; ++tap) {
      for (int in = 0; in < layer.n_in; ++in) {
        for (int out = 0; out < layer.n_out; ++out) {
          packed[(static_cast<long>(tap) * layer.n_in + in) * columns + out] =
              layer.weights[(static_cast<long>(out) * layer.n_in + in) * 9 + tap];
        }
      }
    }
    layers_.push_back({packed, layer.n_in, layer.n_out});
    widest_ = std::max(widest_, columns);
  }
}

void Upsampler::apply(const float* small, int height, int width, float* out) const {
  const UpsamplerPath& path = by_simd(portable::upsampler_path, avx2::upsampler_path, avx512::upsampler_path);
  const long picture_floats = plane_floats(height, width, UPSAMPLER_PIXEL);
  const long layer_floats = plane_floats(height, width, widest_);
  float* memory = floats_of_thread<Upsampler>(picture_floats + 2 * layer_floats);
  const Plane picture{memory, width, UPSAMPLER_PIXEL};
  copy_with_edges(small, height, width, picture);

  std::vector<Span> spans = spans_of(small, height, width);
  Plane in = picture;
  for (size_t i = 0; i < layers_.size(); ++i) {
    spans = grown(spans, width);
    const Convolution& layer = layers_[i];
    const bool is_last = i + 1 == layers_.size();
    const Plane made{memory + picture_floats + static_cast<long>(i % 2) * layer_floats, width, layer.n_out};
    made.clear(-1, -1, width + 1);
    made.clear(height, -1, width + 1);
    parallel_for(height, kGrain, [&](int64_t begin, int64_t end) {
      for (int y = static_cast<int>(begin); y < end; ++y) {
        const Span span = spans[y];
        const int n = std::max(0, span.end - span.begin);
        if (n > 0) {
          const float* rows[3];
          for (int k = 0; k < 3; ++k) rows[k] = in.pixel(y + k - 1, span.begin - 1);
          path.convolve(layer, rows, n, is_last, made.pixel(y, span.begin));
        }
        made.clear(y, -1, n > 0 ? span.begin : width + 2);
        if (n > 0) made.clear(y, span.end, width + 2);
      }
    });
    in = made;
  }

  const long row_floats = 2L * width * UPSAMPLER_PIXEL;
  parallel_for(height, kGrain, [&](int64_t begin, int64_t end) {
    for (int y = static_cast<int>(begin); y < end; ++y) {
      float *upper = out + 2 * y * row_floats, *lower = upper + row_floats;
      const Span span = spans[y];
      const long before = 2L * UPSAMPLER_PIXEL * span.begin, behind = 2L * UPSAMPLER_PIXEL * span.end;
      for (float* row : {upper, lower}) {
        std::fill(row, row + before, 0.0f);
        std::fill(row + behind, row + row_floats, 0.0f);
      }
      if (span.is_empty()) continue;
      const float* rows[3];
      for (int k = 0; k < 3; ++k) rows[k] = picture.pixel(y + k - 1, span.begin - 1);
      path.enlarge(rows, in.pixel(y, span.begin), span.end - span.begin, upper + before, lower + before);
    }
  });
}

}  // namespace synctalk
