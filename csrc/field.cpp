#include "field.h"

#include <algorithm>
#include <cstring>

#include "simd.h"
#include "threads.h"

namespace synctalk {

namespace portable {
extern const FieldPath field_path;
}
#ifdef SYNCTALK_X86
namespace avx2 {
extern const FieldPath field_path;
}
namespace avx512 {
extern const FieldPath field_path;
}
#else
namespace avx2 = portable;
namespace avx512 = portable;
#endif

const FieldPath& field_path() { return by_simd(portable::field_path, avx2::field_path, avx512::field_path); }

namespace {

constexpr int64_t kAlign = FIELD_ALIGN;

int64_t padded(int64_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

// Samples [begin, end) of one frame.
struct Piece {
  int frame;
  int64_t begin;
  int n;
};

std::vector<Piece> pieces_of(const FieldInputs& inputs) {
  std::vector<Piece> pieces;
  for (int frame = 0; frame < inputs.n_frames; ++frame) {
    for (int64_t i = inputs.groups[frame]; i < inputs.groups[frame + 1]; i += FIELD_PIECE) {
      pieces.push_back({frame, i, static_cast<int>(std::min<int64_t>(FIELD_PIECE, inputs.groups[frame + 1] - i))});
    }
  }
  return pieces;
}

// [n_frames, padded(n_gates)]: condition, expression, zeros.
std::vector<float> drives_of(const FieldShape& shape, const FieldInputs& inputs) {
  const int64_t width = padded(shape.n_gates());
  std::vector<float> drives(inputs.n_frames * width);
  for (int64_t frame = 0; frame < inputs.n_frames; ++frame) {
    float* row = drives.data() + frame * width;
    std::copy_n(inputs.condition + frame * shape.condition, shape.condition, row);
    std::copy_n(inputs.expression + frame * shape.expression, shape.expression, row + shape.condition);
  }
  return drives;
}

// A network with the weights of this call.
struct Loaded {
  FieldNet net;
  PackedLayers layers;

  Loaded(FieldNet empty, const FieldShape& shape, const FieldInputs& inputs, bool is_trained) : net(empty) {
    net.tables = inputs.tables;
    const auto shapes = shape.layers();
    for (size_t i = 0; i < shapes.size(); ++i) {
      FieldLayer& layer = i < 2 ? net.attention[i] : net.density[i - 2];
      layer = layers.add(inputs.weights[i], shapes[i].first, shapes[i].second, is_trained);
    }
  }
};

// The sums of one thread: tables (the first thread adds to the result itself), weights, and drives of all frames.
struct ThreadSums {
  Floats tables, weights, drives;
  FieldSums sums{};

  ThreadSums(const FieldNet& net, int64_t n_tables, float* first_tables, int64_t n_drives)
      : tables(first_tables ? 0 : n_tables), weights(n_weights(net)), drives(n_drives) {
    sums.tables = first_tables ? first_tables : tables.data();
    float* at = weights.data();
    for (int i = 0; i < 2 + net.n_density; ++i) {
      const FieldLayer& layer = i < 2 ? net.attention[i] : net.density[i - 2];
      (i < 2 ? sums.attention[i] : sums.density[i - 2]) = at;
      at += n_weights(layer);
    }
  }

  static int64_t n_weights(const FieldLayer& layer) { return (layer.n_out + 1) / 2 * 2 * padded(layer.n_in); }

  static int64_t n_weights(const FieldNet& net) {
    int64_t n = 0;
    for (int i = 0; i < 2; ++i) n += n_weights(net.attention[i]);
    for (int i = 0; i < net.n_density; ++i) n += n_weights(net.density[i]);
    return n;
  }
};

// to[row, :n] = sum over threads of from(thread)[row, :n], rows `stride` apart there and `n` here; thread by thread, so
// that the order of the sum is fixed.
template <class From>
void reduce(const std::vector<ThreadSums*>& threads, From from, int64_t rows, int64_t n, int64_t stride, float* to) {
  for (int64_t row = 0; row < rows; ++row) {
    std::fill_n(to + row * n, n, 0.0f);
    for (ThreadSums* thread : threads) {
      const float* add = from(*thread) + row * stride;
      for (int64_t i = 0; i < n; ++i) to[row * n + i] += add[i];
    }
  }
}

}  // namespace

std::vector<std::pair<int, int>> FieldShape::layers() const {
  std::vector<std::pair<int, int>> shapes{{attention_hidden, n_encoded()}, {n_gates(), attention_hidden}};
  int n_in = n_encoded() + n_gates();
  for (int i = 0; i < density_layers; ++i) {
    shapes.emplace_back(density_hidden, n_in);
    n_in = density_hidden;
  }
  shapes.emplace_back(1 + feature, n_in);
  return shapes;
}

FieldLayer PackedLayers::add(const float* weights, int n_out, int n_in, bool is_trained) {
  const int64_t wide_out = padded(n_out), wide_in = padded(n_in);
  float* forward = packed_.emplace_back(n_in * wide_out).data();
  for (int64_t o = 0; o < n_out; ++o) {
    for (int64_t i = 0; i < n_in; ++i) forward[i * wide_out + o] = weights[o * n_in + i];
  }
  if (!is_trained) return {n_in, n_out, forward, nullptr};
  float* backward = packed_.emplace_back(n_out * wide_in).data();
  for (int64_t o = 0; o < n_out; ++o) std::copy_n(weights + o * n_in, n_in, backward + o * wide_in);
  return {n_in, n_out, forward, backward};
}

Field::Field(FieldShape shape) : shape_(std::move(shape)) {}

FieldNet Field::net() const {
  FieldNet net{};
  net.grid = {shape_.levels.data(), static_cast<int>(shape_.levels.size()), shape_.n_entries(), shape_.n_channels};
  net.n_encoded = shape_.n_encoded();
  net.n_gates = shape_.n_gates();
  net.n_feature = shape_.feature;
  net.is_sigmoid = shape_.is_sigmoid;
  net.n_density = shape_.density_layers + 1;
  return net;
}

void Field::forward(const FieldInputs& inputs, float* log_density, float* feature) const {
  const FieldPath& path = field_path();
  const Loaded loaded(net(), shape_, inputs, false);
  const auto drives = drives_of(shape_, inputs);
  const auto pieces = pieces_of(inputs);
  constexpr int64_t kGrain = 1;
  parallel_for(static_cast<int64_t>(pieces.size()), kGrain, [&](int64_t begin, int64_t end) {
    Floats workspace(path.workspace_floats(loaded.net));
    for (int64_t i = begin; i < end; ++i) {
      const Piece& piece = pieces[i];
      const FieldPiece samples{inputs.positions + 3 * piece.begin, piece.n,
                               drives.data() + piece.frame * padded(shape_.n_gates())};
      path.forward(loaded.net, samples, workspace.data(), log_density + piece.begin,
                   feature + piece.begin * shape_.feature);
    }
  });
}

void Field::backward(const FieldInputs& inputs, const float* d_log_density, const float* d_feature,
                     const FieldGradients& gradients) const {
  const FieldPath& path = field_path();
  const Loaded loaded(net(), shape_, inputs, true);
  const auto drives = drives_of(shape_, inputs);
  const auto pieces = pieces_of(inputs);
  const int64_t n_tables = kPlanes * shape_.n_entries() * shape_.n_channels, n_gates = padded(shape_.n_gates());
  const int64_t n_pieces = static_cast<int64_t>(pieces.size());
  const int64_t n_threads = std::max<int64_t>(1, std::min<int64_t>(threads(), n_pieces));
  std::fill_n(gradients.tables, n_tables, 0.0f);

  std::vector<ThreadSums> sums;
  sums.reserve(n_threads);
  for (int64_t t = 0; t < n_threads; ++t) {
    sums.emplace_back(loaded.net, n_tables, t == 0 ? gradients.tables : nullptr, inputs.n_frames * n_gates);
  }
  parallel_for(n_threads, 1, [&](int64_t t, int64_t) {
    Floats workspace(path.workspace_floats(loaded.net));
    for (int64_t i = t * n_pieces / n_threads; i < (t + 1) * n_pieces / n_threads; ++i) {
      const Piece& piece = pieces[i];
      const FieldPiece samples{inputs.positions + 3 * piece.begin, piece.n, drives.data() + piece.frame * n_gates};
      path.backward(loaded.net, samples, workspace.data(), d_log_density + piece.begin,
                    d_feature + piece.begin * shape_.feature, sums[t].sums,
                    sums[t].drives.data() + piece.frame * n_gates);
    }
  });

  std::vector<ThreadSums*> all;
  for (ThreadSums& thread : sums) all.push_back(&thread);
  parallel_for(n_tables, 1 << 16, [&](int64_t begin, int64_t end) {
    for (size_t t = 1; t < sums.size(); ++t) {
      const float* add = sums[t].sums.tables;
      for (int64_t i = begin; i < end; ++i) gradients.tables[i] += add[i];
    }
  });
  const auto shapes = shape_.layers();
  for (size_t l = 0; l < shapes.size(); ++l) {
    const auto of_layer = [l](ThreadSums& thread) {
      return l < 2 ? thread.sums.attention[l] : thread.sums.density[l - 2];
    };
    reduce(all, of_layer, shapes[l].first, shapes[l].second, padded(shapes[l].second), gradients.weights[l]);
  }
  reduce(
      all, [](ThreadSums& thread) { return thread.drives.data(); }, inputs.n_frames, shape_.condition, n_gates,
      gradients.condition);
  reduce(
      all, [this](ThreadSums& thread) { return thread.drives.data() + shape_.condition; }, inputs.n_frames,
      shape_.expression, n_gates, gradients.expression);
}

}  // namespace synctalk
