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

// One size of the picture while it passes through the network.
template <class Value>
struct Scale {
  int height, width, n_channels;
  std::vector<float> shifts;
  Modulation modulation;
  float* alpha;            // [height, width]
  std::vector<Span> head;  // where alpha is
  Plane<Value> in, inner, side;
  std::vector<Span> in_spans, inner_spans, spans;
};

// Memory of a thread, dealt out in aligned pieces; counts only while there is none.
struct Deal {
  float* memory;
  long used = 0;

  template <class Value>
  Value* take(long n) {
    float* at = memory == nullptr ? nullptr : memory + used;
    used += (n * static_cast<long>(sizeof(Value)) / 4 + 32) / 16 * 16;
    return reinterpret_cast<Value*>(at);
  }
  template <class Value>
  Plane<Value> plane(int height, int width, int n_channels) {
    return {take<Value>(Plane<Value>::n_values(height, width, n_channels)), width, n_channels};
  }
};

// A thread's row of floats; each use has its own.
template <class Use>
float* row_of(int width, int n_channels) {
  return floats_of_thread<Use>(static_cast<long>(width + BYTE_SPARE) * n_channels);
}

// Calls make(y, span) where the plane is to have something; clears the rest.
template <class Value, class Make>
void fill_plane(const Plane<Value>& out, int height, const std::vector<Span>& spans, const Make& make) {
  out.clear(-1, -1, out.width + 1);
  out.clear(height, -1, out.width + 1);
  for_rows(0, height, [&](int y) {
    const Span span = spans[y];
    if (!span.is_empty()) make(y, span);
    out.clear_around(y, span);
  });
}

void halve_alpha(const float* alpha, int height, int width, float* half) {
  for (int y = 0; y < height / 2; ++y) {
    const float *upper = alpha + 2L * y * width, *lower = upper + width;
    for (int x = 0; x < width / 2; ++x) {
      *half++ = (upper[2 * x] + upper[2 * x + 1] + lower[2 * x] + lower[2 * x + 1]) * 0.25f;
    }
  }
}

void copy_alpha(const float* small, long n_pixels, float* alpha) {
  for (long i = 0; i < n_pixels; ++i) alpha[i] = small[i * UPSAMPLER_PIXEL + UPSAMPLER_PIXEL - 1];
}

// The picture as the first layer takes it.
const Plane<float>& picture_as(const Plane<float>& picture, int, const Plane<float>&) { return picture; }

const Plane<uint8_t>& picture_as(const Plane<float>& picture, int height, const Plane<uint8_t>& bytes) {
  to_bytes(picture, height, bytes);
  return bytes;
}

// Both convolutions of a level.
template <class Value, class Layer>
void look(const UpsamplerRows<Value, Layer>& rows, const Layer* layers, const Scale<Value>& level) {
  struct Row;
  fill_plane(level.inner, level.height, level.inner_spans, [&](int y, Span span) {
    const int n = span.end - span.begin;
    const Value* from[3];
    level.in.rows_at(y, span.begin, from);
    float* values = row_of<Row>(level.width, level.n_channels);
    rows.convolve(layers[0], from, n, values);
    const float* alpha = level.alpha + static_cast<long>(y) * level.width + span.begin;
    rows.modulate(level.modulation, values, alpha, n, level.inner.pixel(y, span.begin));
  });
  fill_plane(level.side, level.height, level.spans, [&](int y, Span span) {
    const Value* from[3];
    level.inner.rows_at(y, span.begin, from);
    rows.convolve_hidden(layers[1], from, span.end - span.begin, level.side.pixel(y, span.begin));
  });
}

template <class Value, class Layer>
void halve(const UpsamplerRows<Value, Layer>& rows, const Scale<Value>& from, const Scale<Value>& to) {
  fill_plane(to.in, to.height, to.in_spans, [&](int y, Span span) {
    rows.halve(from.side.pixel(2 * y, 2 * span.begin), from.side.pixel(2 * y + 1, 2 * span.begin),
               span.end - span.begin, from.n_channels, to.in.pixel(y, span.begin));
  });
  halve_alpha(from.alpha, from.height, from.width, to.alpha);
}

// What the coarser level knows is added to a level's side, where the head is. ratio: of the side's unit to the sum's.
template <class Value, class Layer>
void merge(const UpsamplerRows<Value, Layer>& rows, const Layer& layer, const Scale<Value>& coarse, float ratio,
           const Scale<Value>& level) {
  struct Row;
  for_rows(0, coarse.height, [&](int y) {
    float* values = row_of<Row>(coarse.width, layer.n_out);
    const Span known = coarse.head[y];
    if (!known.is_empty()) {
      const Value* from[3];
      coarse.side.rows_at(y, known.begin, from);
      rows.convolve(layer, from, known.end - known.begin, values + static_cast<long>(known.begin) * layer.n_out);
    }
    const int end = std::max(known.begin, known.end);
    std::fill(values, values + static_cast<long>(known.begin) * layer.n_out, 0.0f);
    std::fill(values + static_cast<long>(end) * layer.n_out, values + static_cast<long>(coarse.width) * layer.n_out,
              0.0f);
    for (const int fine : {2 * y, 2 * y + 1}) {
      const Span span = level.spans[fine];
      const float* alpha = level.alpha + static_cast<long>(fine) * level.width;
      rows.merge(values, alpha, ratio, level.n_channels, span.begin, span.end, level.side.pixel(fine, 0));
    }
  });
}

}  // namespace

Upsampler::Upsampler(const std::vector<Layer>& layers, const std::vector<float>& ranges)
    : n_levels_(static_cast<int>(layers.size()) / 3) {
  for (int level = 0; level < n_levels_; ++level) n_modulation_ += 2 * layers[2 * level].n_out;
  if (ranges.empty()) {
    scales_.assign(layers.size(), 1.0f);
    for (const Layer& layer : layers) add_layer(layer);
  } else {
    add_byte_layers(layers, ranges);
  }
}

void Upsampler::add_byte_layers(const std::vector<Layer>& layers, const std::vector<float>& ranges) {
  if (ranges.size() + 1 != layers.size()) {
    throw std::invalid_argument("ranges: expected " + std::to_string(layers.size() - 1) + " values, got " +
                                std::to_string(ranges.size()));
  }
  float in_scale = BYTE_TOP;  // the picture lies in 0..1
  for (size_t i = 0; i < layers.size(); ++i) {
    const bool is_last = i + 1 == layers.size();
    if (!is_last && !(ranges[i] > 0.0f && std::isfinite(ranges[i]))) {
      throw std::invalid_argument("ranges: expected finite and positive");
    }
    scales_.push_back(is_last ? 1.0f : BYTE_TOP / ranges[i]);
    add_byte_layer(layers[i], in_scale, scales_.back());
    in_scale = scales_.back();
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

template <class Value, class Convolved>
void Upsampler::pass(const UpsamplerPath& path, const UpsamplerRows<Value, Convolved>& rows,
                     const std::vector<Convolved>& layers, const float* small, int height, int width,
                     const float* modulation, float* out) const {
  struct Details;
  std::vector<Scale<Value>> levels(n_levels_);
  Plane<float> picture;
  const auto deal = [&](Deal hand) {
    picture = hand.plane<float>(height, width, UPSAMPLER_PIXEL);
    for (int i = 0; i < n_levels_; ++i) {
      Scale<Value>& level = levels[i];
      level.height = height >> i;
      level.width = width >> i;
      level.n_channels = layers[2 * i].n_out;
      level.alpha = hand.take<float>(static_cast<long>(level.height) * level.width);
      level.in = hand.plane<Value>(level.height, level.width, layers[2 * i].n_in);
      level.inner = hand.plane<Value>(level.height, level.width, level.n_channels);
      level.side = hand.plane<Value>(level.height, level.width, level.n_channels);
    }
    return hand.used;
  };
  deal({floats_of_thread<Upsampler>(deal({nullptr}))});
  copy_with_edges(small, height, picture);
  copy_alpha(small, static_cast<long>(height) * width, levels[0].alpha);
  const float *gains = modulation, *shifts = modulation + n_modulation_ / 2;
  for (int i = 0; i < n_levels_; ++i) {
    Scale<Value>& level = levels[i];
    const float unit = scales_[2 * i];
    for (int c = 0; c < level.n_channels; ++c) level.shifts.push_back(shifts[c] * unit);
    level.modulation = {gains, level.shifts.data(), level.n_channels};
    gains += level.n_channels;
    shifts += level.n_channels;
    if (i == 0) {
      level.in = picture_as(picture, height, level.in);
      level.head = level.in_spans = spans_of(small, height, width);
    } else {
      level.head = halved(levels[i - 1].head);
      level.in_spans = halved(levels[i - 1].spans);
      halve(rows, levels[i - 1], level);
    }
    level.inner_spans = grown(level.in_spans, level.width);
    level.spans = grown(level.inner_spans, level.width);
    look(rows, &layers[2 * i], level);
  }
  size_t next = 2 * static_cast<size_t>(n_levels_);
  for (int i = n_levels_ - 2; i >= 0; --i, ++next) {
    merge(rows, layers[next], levels[i + 1], scales_[next] / scales_[2 * i + 1], levels[i]);
  }
  const Scale<Value>& first = levels[0];
  const auto spans = grown(first.spans, width);
  const long row_floats = 2L * width * UPSAMPLER_PIXEL;
  for_rows(0, height, [&](int y) {
    float *upper = out + 2 * y * row_floats, *lower = upper + row_floats;
    const Span span = spans[y];
    const long before = 2L * UPSAMPLER_PIXEL * span.begin, behind = 2L * UPSAMPLER_PIXEL * span.end;
    for (float* row : {upper, lower}) {
      std::fill(row, row + before, 0.0f);
      std::fill(row + behind, row + row_floats, 0.0f);
    }
    if (span.is_empty()) return;
    const Value* from[3];
    first.side.rows_at(y, span.begin, from);
    float* details = row_of<Details>(width, UPSAMPLER_OUT);
    rows.convolve(layers.back(), from, span.end - span.begin, details);
    const float* seen[3];
    picture.rows_at(y, span.begin, seen);
    path.enlarge(seen, details, span.end - span.begin, upper + before, lower + before);
  });
}

void Upsampler::apply(const float* small, int height, int width, const float* modulation, float* out) const {
  const UpsamplerPath& path = by_simd(portable::upsampler_path, avx2::upsampler_path, avxvnni::upsampler_path,
                                      avx512::upsampler_path, avx512vnni::upsampler_path);
  if (layers_.empty()) {
    pass(path, path.bytes, byte_layers_, small, height, width, modulation, out);
  } else {
    pass(path, path.floats, layers_, small, height, width, modulation, out);
  }
}

}  // namespace synctalk
