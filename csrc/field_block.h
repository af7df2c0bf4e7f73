// The field on a piece of samples, for one instruction set.
//
// The grid goes through a piece level by level, lanes are samples; the networks go through it block by block, rows are
// samples and lanes are features. Row of `in`: encoding, then gated condition and expression, packed without a gap.
#pragma once

#include "field_matrix.h"
#include "field_net.h"

namespace synctalk::SYNCTALK_PATH {

static inline int padded(int n) { return (n + FIELD_ALIGN - 1) / FIELD_ALIGN * FIELD_ALIGN; }
static inline int in_stride(const FieldNet& net) { return padded(net.n_encoded + padded(net.n_gates)); }

struct Workspace {
  float *axes, *columns;  // of the whole piece; see load_axes and encode
  float *in, *attended, *gate, *hidden[FIELD_MAX_LAYERS], *out;
  float *d_in, *d_attended, *d_gate, *d_hidden[2], *d_out;
  long n_floats;
};

// Cut the workspace into rows; with null it only counts.
static Workspace workspace_of(const FieldNet& net, float* memory) {
  Workspace w{};
  long used = 0;
  const auto take = [&](int width, int rows = FIELD_BLOCK) {
    float* at = memory ? memory + used : nullptr;
    used += static_cast<long>(rows) * width;
    return at;
  };
  const int last = net.n_density - 1;
  int widest = 0;
  w.axes = take(3, FIELD_PIECE);
  w.columns = take(net.n_encoded, FIELD_PIECE);
  w.in = take(in_stride(net));
  w.attended = take(padded(net.attention[0].n_out));
  w.gate = take(padded(net.n_gates));
  for (int i = 0; i < last; ++i) {
    w.hidden[i] = take(padded(net.density[i].n_out));
    widest = net.density[i].n_out > widest ? net.density[i].n_out : widest;
  }
  w.out = take(padded(net.density[last].n_out));
  w.d_in = take(in_stride(net));
  w.d_attended = take(padded(net.attention[0].n_out));
  w.d_gate = take(padded(net.n_gates));
  w.d_hidden[0] = take(padded(widest));
  w.d_hidden[1] = take(padded(widest));
  w.d_out = take(padded(net.density[last].n_out));
  w.n_floats = used;
  return w;
}

// How the samples of a piece become rows: neighbours on a ray come LANES rows apart, so that sums into the same node of
// the grid do not wait for each other. Rows without a sample repeat the last one, with zero gradients.
struct Rows {
  int n, n_samples;

  explicit Rows(const FieldPiece& piece)
      : n((piece.n + FIELD_BLOCK - 1) / FIELD_BLOCK * FIELD_BLOCK), n_samples(piece.n) {}
  int sample(int row) const { return row % LANES * (n / LANES) + row / LANES; }
};

// Four nodes of one level around LANES positions, with bilinear weights.
struct Corners {
  IVec index[4];
  Vec weight[4];
};

template <bool HASHED>
static inline Corners corners_of(const Level& level, Vec u, Vec v) {
  const Vec in_u = fma(u, splat(level.scale), splat(0.5f)), in_v = fma(v, splat(level.scale), splat(0.5f));
  const IVec node_u = __builtin_convertvector(in_u, IVec), node_v = __builtin_convertvector(in_v, IVec);
  const Vec right = in_u - __builtin_convertvector(node_u, Vec), below = in_v - __builtin_convertvector(node_v, Vec);
  const Vec left = splat(1.0f) - right, above = splat(1.0f) - below;
  const int32_t size = static_cast<int32_t>(level.size), step = HASHED ? kHashPrime : level.resolution;
  // Hashing wraps around: unsigned.
  const UVec row = reinterpret_cast<UVec>(node_v) * static_cast<uint32_t>(step);
  Corners corners{{}, {left * above, right * above, left * below, right * below}};
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const IVec u_i = node_u + (i & 1);
    const IVec row_i = reinterpret_cast<IVec>(i & 2 ? row + static_cast<uint32_t>(step) : row);
    IVec index = HASHED ? (u_i ^ row_i) & (size - 1) : u_i + row_i;
    if (!HASHED) index -= index >= size ? size - IVec{} : IVec{};
    corners.index[i] = index;
  }
  return corners;
}

// Calls visit(block, lane, corners) for all rows of one plane and level.
template <bool HASHED, class Visit>
static inline void for_rows(const Level& level, const float* u, const float* v, int n_rows, Visit visit) {
  for (int block = 0; block * FIELD_BLOCK < n_rows; ++block) {
    for (int lane = 0; lane < FIELD_BLOCK; lane += LANES) {
      const int row = block * FIELD_BLOCK + lane;
      visit(block, lane, corners_of<HASHED>(level, load(u + row), load(v + row)));
    }
  }
}

// Calls visit(column, table offset, block, lane, corners); a column is the first of a plane and level.
template <class Visit>
static inline void for_corners(const Grid& grid, const float* axes, int n_rows, Visit visit) {
  for (int slot = 0; slot < kPlanes * grid.n_levels; ++slot) {
    const int plane = slot / grid.n_levels, column = slot * grid.n_channels;
    const Level& level = grid.levels[slot % grid.n_levels];
    const long first = (plane * grid.n_entries + level.offset) * grid.n_channels;
    const float *u = axes + column_axis(plane) * FIELD_PIECE, *v = axes + row_axis(plane) * FIELD_PIECE;
    const auto at = [&](int block, int lane, const Corners& corners) { visit(column, first, block, lane, corners); };
    level.is_hashed ? for_rows<true>(level, u, v, n_rows, at) : for_rows<false>(level, u, v, n_rows, at);
  }
}

// axes: [3][FIELD_PIECE], coordinates in 0..1 by row.
static void load_axes(const FieldPiece& piece, const Rows& rows, float* axes) {
  for (int row = 0; row < rows.n; ++row) {
    const int sample = rows.sample(row);
    const float* position = piece.positions + 3 * (sample < piece.n ? sample : piece.n - 1);
    for (int a = 0; a < 3; ++a) axes[a * FIELD_PIECE + row] = unit_clamp(position[a]);
  }
}

// columns: [blocks][n_encoded][FIELD_BLOCK]. One level at a time, so that its part of the table stays in the cache.
[[gnu::noinline]] static void encode(const FieldNet& net, const float* axes, int n_rows, float* columns) {
  const int n_channels = net.grid.n_channels;
  for_corners(net.grid, axes, n_rows, [&](int column, long first, int block, int lane, const Corners& corners) {
    float* to = columns + (static_cast<long>(block) * net.n_encoded + column) * FIELD_BLOCK + lane;
    for (int channel = 0; channel < n_channels; ++channel) {
      const float* table = net.tables + first + channel;
      Vec value = Vec{};
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) value = fma(corners.weight[i], gather(table, corners.index[i] * n_channels), value);
      store(to + channel * FIELD_BLOCK, value);
    }
  });
}

// The gradient of the tables; columns as above.
[[gnu::noinline]] static void scatter(const FieldNet& net, const float* axes, int n_rows, const float* columns,
                                      float* d_tables) {
  const int n_channels = net.grid.n_channels;
  for_corners(net.grid, axes, n_rows, [&](int column, long first, int block, int lane, const Corners& corners) {
    const float* from = columns + (static_cast<long>(block) * net.n_encoded + column) * FIELD_BLOCK + lane;
    for (int channel = 0; channel < n_channels; ++channel) {
      const Vec gradient = load(from + channel * FIELD_BLOCK);
      float* d_table = d_tables + first + channel;
      alignas(64) float add[4][LANES];
      alignas(64) int32_t index[4][LANES];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        store(add[i], corners.weight[i] * gradient);
        store(index[i], corners.index[i] * n_channels);
      }
#pragma GCC unroll 16
      for (int k = 0; k < LANES; ++k) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) d_table[index[i][k]] += add[i][k];
      }
    }
  });
}

// Columns of one block to rows of features, and back.
static void to_rows(const float* columns, int n_columns, float* rows, int stride, int n_rows) {
  for (int s = 0; s < n_rows; ++s) {
    for (int c = 0; c < n_columns; ++c) rows[static_cast<long>(s) * stride + c] = columns[c * FIELD_BLOCK + s];
  }
}

static void to_columns(const float* rows, int stride, int n_columns, float* columns) {
  for (int s = 0; s < FIELD_BLOCK; ++s) {
    for (int c = 0; c < n_columns; ++c) columns[c * FIELD_BLOCK + s] = rows[static_cast<long>(s) * stride + c];
  }
}

// out = product of an even number of rows with a layer.
template <Finish FINISH>
static void apply(const FieldLayer& layer, int n_rows, const float* in, long stride, float* out) {
  multiply<FINISH>(n_rows, layer.n_out, layer.n_in, {in, stride, 1}, layer.forward, padded(layer.n_out), out,
                   padded(layer.n_out));
}

// From the encoding of one block in w.columns to w.out; n_rows is even.
static void decode(const FieldNet& net, const float* drive, int block, const Workspace& w, int n_rows = FIELD_BLOCK) {
  const int stride = in_stride(net), gates = padded(net.n_gates);
  to_rows(w.columns + static_cast<long>(block) * FIELD_BLOCK * net.n_encoded, net.n_encoded, w.in, stride, n_rows);
  apply<Finish::relu>(net.attention[0], n_rows, w.in, stride, w.attended);
  apply<Finish::set>(net.attention[1], n_rows, w.attended, padded(net.attention[0].n_out), w.gate);
  for (int s = 0; s < n_rows; ++s) {
    float* gate = w.gate + static_cast<long>(s) * gates;
    float* acting = w.in + static_cast<long>(s) * stride + net.n_encoded;
    for (int i = 0; i < net.n_gates; i += LANES) {
      Vec open = load(gate + i);
      if (net.is_sigmoid) {
        open = sigmoid(open);
        store(gate + i, open);
      }
      store(acting + i, open * load(drive + i));
    }
  }
  const float* in = w.in;
  int in_row = stride;
  for (int i = 0; i < net.n_density - 1; ++i) {
    apply<Finish::relu>(net.density[i], n_rows, in, in_row, w.hidden[i]);
    in = w.hidden[i];
    in_row = padded(net.density[i].n_out);
  }
  apply<Finish::set>(net.density[net.n_density - 1], n_rows, in, in_row, w.out);
}

static long workspace_floats(const FieldNet& net) { return workspace_of(net, nullptr).n_floats; }

static void forward(const FieldNet& net, const FieldPiece& piece, float* memory, float* log_density, float* feature) {
  const Workspace w = workspace_of(net, memory);
  const Rows rows(piece);
  load_axes(piece, rows, w.axes);
  encode(net, w.axes, rows.n, w.columns);
  const int stride = padded(1 + net.n_feature);
  for (int block = 0; block * FIELD_BLOCK < rows.n; ++block) {
    decode(net, piece.drive, block, w);
    for (int s = 0; s < FIELD_BLOCK; ++s) {
      const long sample = rows.sample(block * FIELD_BLOCK + s);
      if (sample >= piece.n) continue;
      const float* row = w.out + static_cast<long>(s) * stride;
      log_density[sample] = row[0];
      __builtin_memcpy(feature + sample * net.n_feature, row + 1, sizeof(float) * net.n_feature);
    }
  }
}

// sum += d^T in: the gradient of a layer's weights.
static void add_weights(const FieldLayer& layer, const float* d, const float* in, long in_row, float* sum) {
  multiply<Finish::add>(layer.n_out, layer.n_in, FIELD_BLOCK, {d, 1, padded(layer.n_out)}, in, in_row, sum,
                        padded(layer.n_in));
}

// d_in = d times the layer's weights.
template <Finish FINISH>
static void push_back(const FieldLayer& layer, const float* d, float* d_in, long d_in_row,
                      const float* gate = nullptr) {
  multiply<FINISH>(FIELD_BLOCK, layer.n_in, layer.n_out, {d, padded(layer.n_out), 1}, layer.backward,
                   padded(layer.n_in), d_in, d_in_row, gate);
}

// Gradient of the gated inputs -> of the attention's output, and of condition and expression.
static void gate_backward(const FieldNet& net, const float* drives, const Workspace& w, float* d_drive) {
  const int stride = in_stride(net), gates = padded(net.n_gates);
  for (int i = 0; i < net.n_gates; i += LANES) {
    const Vec drive = load(drives + i);
    Vec sum = Vec{};
    for (int s = 0; s < FIELD_BLOCK; ++s) {
      const Vec d = load(w.d_in + static_cast<long>(s) * stride + net.n_encoded + i);
      const Vec open = load(w.gate + static_cast<long>(s) * gates + i);
      sum = fma(d, open, sum);
      Vec d_gate = d * drive;
      if (net.is_sigmoid) d_gate *= open * (splat(1.0f) - open);
      store(w.d_gate + static_cast<long>(s) * gates + i, d_gate);
    }
    store(d_drive + i, load(d_drive + i) + sum);
  }
}

// From w.d_out of one block, behind decode, to the gradient of its encoding in w.columns.
static void block_backward(const FieldNet& net, const float* drive, int block, const Workspace& w,
                           const FieldSums& sums, float* d_drive) {
  const int stride = in_stride(net), attended = padded(net.attention[0].n_out);
  const float* d = w.d_out;
  for (int i = net.n_density - 1; i > 0; --i) {
    const FieldLayer& layer = net.density[i];
    add_weights(layer, d, w.hidden[i - 1], padded(layer.n_in), sums.density[i]);
    push_back<Finish::mask>(layer, d, w.d_hidden[i & 1], padded(layer.n_in), w.hidden[i - 1]);
    d = w.d_hidden[i & 1];
  }
  add_weights(net.density[0], d, w.in, stride, sums.density[0]);
  push_back<Finish::set>(net.density[0], d, w.d_in, stride);

  gate_backward(net, drive, w, d_drive);
  add_weights(net.attention[1], w.d_gate, w.attended, attended, sums.attention[1]);
  push_back<Finish::mask>(net.attention[1], w.d_gate, w.d_attended, attended, w.attended);
  add_weights(net.attention[0], w.d_attended, w.in, stride, sums.attention[0]);
  push_back<Finish::add>(net.attention[0], w.d_attended, w.d_in, stride);
  to_columns(w.d_in, stride, net.n_encoded, w.columns + static_cast<long>(block) * FIELD_BLOCK * net.n_encoded);
}

static void backward(const FieldNet& net, const FieldPiece& piece, float* memory, const float* d_log_density,
                     const float* d_feature, const FieldSums& sums, float* d_drive) {
  const Workspace w = workspace_of(net, memory);
  const Rows rows(piece);
  load_axes(piece, rows, w.axes);
  encode(net, w.axes, rows.n, w.columns);
  const int out_row = padded(1 + net.n_feature);
  for (int block = 0; block * FIELD_BLOCK < rows.n; ++block) {
    decode(net, piece.drive, block, w);
    __builtin_memset(w.d_out, 0, sizeof(float) * FIELD_BLOCK * out_row);
    for (int s = 0; s < FIELD_BLOCK; ++s) {
      const long sample = rows.sample(block * FIELD_BLOCK + s);
      if (sample >= piece.n) continue;
      float* row = w.d_out + static_cast<long>(s) * out_row;
      row[0] = d_log_density[sample];
      __builtin_memcpy(row + 1, d_feature + sample * net.n_feature, sizeof(float) * net.n_feature);
    }
    block_backward(net, piece.drive, block, w, sums, d_drive);
  }
  scatter(net, w.axes, rows.n, w.columns, sums.tables);
}

}  // namespace synctalk::SYNCTALK_PATH
