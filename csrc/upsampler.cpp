#include "upsampler.h"

#include <cmath>
#include <stdexcept>

#include "byte_weights.h"
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
namespace avxvnni {
extern const UpsamplerPath upsampler_path;
}
namespace avx512 {
extern const UpsamplerPath upsampler_path;
}
namespace avx512vnni {
extern const UpsamplerPath upsampler_path;
}
#else
namespace avx2 = portable;
namespace avxvnni = portable;
namespace avx512 = portable;
namespace avx512vnni = portable;
#endif

namespace {

constexpr int64_t kGrain = 4;  // rows

// Calls work(y) for all rows, on all threads.
template <class Work>
void for_rows(int first, int end, const Work& work) {
  parallel_for(end - first, kGrain, [&](int64_t from, int64_t to) {
    for (auto y = first + static_cast<int>(from); y < first + to; ++y) work(y);
  });
}

// Makes the planes of all hidden layers in turn: convolve(layer, rows, n, out) -> the last one, and its spans.
template <class Value, class Layer, class Convolve>
Plane<Value> hidden_plane(const std::vector<Layer>& layers, size_t n_layers, Plane<Value> in, int height, Value* memory,
                          long plane_values, std::vector<Span>& spans, const Convolve& convolve) {
  const int width = in.width;
  for (size_t i = 0; i < n_layers; ++i) {
    spans = grown(spans, width);
    const Layer& layer = layers[i];
    const Plane<Value> made{memory + static_cast<long>(i % 2) * plane_values, width, layer.n_out};
    made.clear(-1, -1, width + 1);
    made.clear(height, -1, width + 1);
    for_rows(0, height, [&](int y) {
      const Span span = spans[y];
      if (!span.is_empty()) {
        const Value* rows[3];
        in.rows_at(y, span.begin, rows);
        convolve(layer, rows, span.end - span.begin, made.pixel(y, span.begin));
      }
      made.clear_around(y, span);
    });
    in = made;
  }
  spans = grown(spans, width);
  return in;
}

// The picture goes on beyond its edges as it ends there.
void copy_with_edges(const float* small, int height, const Plane<float>& plane) {
  const long row_floats = static_cast<long>(plane.width) * UPSAMPLER_PIXEL;
  for_rows(-1, height + 1, [&](int y) {
    const float* row = small + std::clamp(y, 0, height - 1) * row_floats;
    std::copy_n(row, UPSAMPLER_PIXEL, plane.pixel(y, -1));
    std::copy_n(row, row_floats, plane.pixel(y, 0));
    for (int x = plane.width; x < plane.width + 3; ++x) {
      std::copy_n(row + row_floats - UPSAMPLER_PIXEL, UPSAMPLER_PIXEL, plane.pixel(y, x));
    }
  });
}

void to_bytes(const Plane<float>& picture, int height, const Plane<uint8_t>& bytes) {
  const long n = static_cast<long>(picture.width + 3) * UPSAMPLER_PIXEL;
  for_rows(-1, height + 1, [&](int y) {
    const float* from = picture.pixel(y, -1);
    uint8_t* to = bytes.pixel(y, -1);
    for (long i = 0; i < n; ++i) {
      const float value = std::min(std::max(from[i], 0.0f), 1.0f);
      to[i] = static_cast<uint8_t>(static_cast<int>(value * BYTE_TOP + 0.5f));
    }
  });
}

// Writes the picture: details_of(y, span) -> [n][UPSAMPLER_OUT] where it has anything, zeros elsewhere.
template <class Details>
void enlarge(const UpsamplerPath& path, const Plane<float>& picture, int height, const std::vector<Span>& spans,
             const Details& details_of, float* out) {
  const long row_floats = 2L * picture.width * UPSAMPLER_PIXEL;
  for_rows(0, height, [&](int y) {
    float *upper = out + 2 * y * row_floats, *lower = upper + row_floats;
    const Span span = spans[y];
    const long before = 2L * UPSAMPLER_PIXEL * span.begin, behind = 2L * UPSAMPLER_PIXEL * span.end;
    for (float* row : {upper, lower}) {
      std::fill(row, row + before, 0.0f);
      std::fill(row + behind, row + row_floats, 0.0f);
    }
    if (span.is_empty()) return;
    const float* rows[3];
    picture.rows_at(y, span.begin, rows);
    path.enlarge(rows, details_of(y, span), span.end - span.begin, upper + before, lower + before);
  });
}

}  // namespace

Upsampler::Upsampler(const std::vector<Layer>& layers, const std::vector<float>& ranges) : widest_(UPSAMPLER_OUT) {
  if (!ranges.empty() && ranges.size() + 1 != layers.size()) {
    throw std::invalid_argument("ranges: expected " + std::to_string(layers.size() - 1) + " values, got " +
                                std::to_string(ranges.size()));
  }
  float scale = BYTE_TOP;  // the picture lies in 0..1
  for (size_t i = 0; i < layers.size(); ++i) {
    widest_ = std::max(widest_, layers[i].n_out);
    if (ranges.empty()) {
      add_layer(layers[i]);
      continue;
    }
    const bool is_last = i + 1 == layers.size();
    if (!is_last && !(ranges[i] > 0.0f && std::isfinite(ranges[i]))) {
      throw std::invalid_argument("ranges: expected finite and positive");
    }
    const float out_scale = is_last ? 1.0f : BYTE_TOP / ranges[i];
    add_byte_layer(layers[i], scale, out_scale);
    scale = out_scale;
  }
}

void Upsampler::add_layer(const Layer& layer) {
  float* packed = weights_.emplace_back(std::make_unique<Floats>(9L * layer.n_in * layer.n_out))->data();
  for (int tap = 0; tap < 9; ++tap) {
    for (int in = 0; in < layer.n_in; ++in) {
      for (int out = 0; out < layer.n_out; ++out) {
        packed[(static_cast<long>(tap) * layer.n_in + in) * layer.n_out + out] =
            layer.weights[(static_cast<long>(out) * layer.n_in + in) * 9 + tap];
      }
    }
  }
  layers_.push_back({packed, layer.n_in, layer.n_out});
}

void Upsampler::add_byte_layer(const Layer& layer, float in_scale, float out_scale) {
  constexpr int kGroup = 4 * QUAD_GROUP;
  const int n_row = (3 * layer.n_in + kGroup - 1) / kGroup * kGroup, n_quads = n_row / 4;
  auto& packed = byte_weights_.emplace_back(static_cast<size_t>(layer.n_out) * 3 * n_quads);
  auto& scales = byte_scales_.emplace_back(static_cast<size_t>(layer.n_out));
  std::vector<float> wanted(static_cast<size_t>(3) * n_row);
  for (int out = 0; out < layer.n_out; ++out) {
    for (int tap = 0; tap < 9; ++tap) {
      for (int in = 0; in < layer.n_in; ++in) {
        wanted[static_cast<size_t>(tap / 3) * n_row + static_cast<size_t>(tap % 3) * layer.n_in + in] =
            layer.weights[(static_cast<long>(out) * layer.n_in + in) * 9 + tap];
      }
    }
    const float factor = byte_factor(wanted.data(), 3 * n_row);
    scales[out] = out_scale / (in_scale * factor);
    int32_t* group = packed.data() + static_cast<long>(out / BYTE_CHANNELS) * 3 * n_quads * BYTE_CHANNELS;
    for (int k = 0; k < 3 * n_quads; ++k) {
      group[static_cast<long>(k) * BYTE_CHANNELS + out % BYTE_CHANNELS] = quad_of(wanted.data() + 4L * k, factor);
    }
  }
  byte_layers_.push_back({packed.data(), scales.data(), layer.n_in, layer.n_out, n_quads});
}

void Upsampler::apply(const float* small, int height, int width, float* out) const {
  struct Details;
  const UpsamplerPath& path = by_simd(portable::upsampler_path, avx2::upsampler_path, avxvnni::upsampler_path,
                                      avx512::upsampler_path, avx512vnni::upsampler_path);
  const long picture_values = Plane<float>::n_values(height, width, UPSAMPLER_PIXEL);
  const long plane_values = Plane<float>::n_values(height, width, widest_);
  std::vector<Span> spans = spans_of(small, height, width);
  if (layers_.empty()) {
    float* memory = floats_of_thread<Upsampler>(picture_values + (picture_values + 2 * plane_values + 3) / 4);
    const Plane<float> picture{memory, width, UPSAMPLER_PIXEL};
    const Plane<uint8_t> bytes{reinterpret_cast<uint8_t*>(memory + picture_values), width, UPSAMPLER_PIXEL};
    copy_with_edges(small, height, picture);
    to_bytes(picture, height, bytes);
    const auto last = hidden_plane(byte_layers_, byte_layers_.size() - 1, bytes, height, bytes.data + picture_values,
                                   plane_values, spans, path.convolve_bytes);
    const auto details_of = [&](int y, Span span) {
      float* details = floats_of_thread<Details>(static_cast<long>(width + BYTE_SPARE) * UPSAMPLER_OUT);
      const uint8_t* rows[3];
      last.rows_at(y, span.begin, rows);
      path.details_of_bytes(byte_layers_.back(), rows, span.end - span.begin, details);
      return details;
    };
    enlarge(path, picture, height, spans, details_of, out);
    return;
  }
  float* memory = floats_of_thread<Upsampler>(picture_values + 2 * plane_values);
  const Plane<float> picture{memory, width, UPSAMPLER_PIXEL};
  copy_with_edges(small, height, picture);
  const auto convolve = [&](const Convolution& layer, const float* const rows[3], int n, float* made) {
    path.convolve(layer, rows, n, false, made);
  };
  const auto last = hidden_plane(layers_, layers_.size() - 1, picture, height, memory + picture_values, plane_values,
                                 spans, convolve);
  const auto details_of = [&](int y, Span span) {
    float* details = floats_of_thread<Details>(static_cast<long>(width + BYTE_SPARE) * UPSAMPLER_OUT);
    const float* rows[3];
    last.rows_at(y, span.begin, rows);
    path.convolve(layers_.back(), rows, span.end - span.begin, true, details);
    return details;
  };
  enlarge(path, picture, height, spans, details_of, out);
}

}  // namespace synctalk
