// The field on one block of samples, for one instruction set. Rows are samples, lanes are features.
//
// Row of `in`: encoding, then gated condition and expression, packed without a gap. Rows behind the last sample of a block
// are computed with it and thrown away.
#pragma once

#include "field_matrix.h"
#include "field_net.h"

namespace synctalk::SYNCTALK_PATH {

static inline int padded(int n) { return (n + FIELD_ALIGN - 1) / FIELD_ALIGN * FIELD_ALIGN; }
static inline int in_stride(const FieldNet& net) { return padded(net.n_encoded + padded(net.n_gates)); }

struct Workspace {
  float *in, *attended, *gate, *hidden[FIELD_MAX_LAYERS], *out;
  float *d_in, *d_attended, *d_gate, *d_hidden[2], *d_out;
  long n_floats;
};

// Cut the workspace into rows; with null it only counts.
static Workspace workspace_of(const FieldNet& net, float* memory) {
  Workspace w{};
  long used = 0;
  const auto take = [&](int width) {
    float* at = memory ? memory + used : nullptr;
    used += static_cast<long>(FIELD_BLOCK) * width;
    return at;
  };
  const int last = net.n_density - 1;
  int widest = 0;
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

// The four nodes around a position in LANES slots (plane and level), with bilinear weights. Source: tiny-cuda-nn
// HashGrid (indexing and scales).
struct Corners {
  IVec index[4];
  Vec weight[4];
};

static inline Corners corners_of(const FieldSlots& slots, const float* position, int slot) {
  float at[3];
  for (int i = 0; i < 3; ++i) {
    const float p = position[i] > 0.0f ? position[i] : 0.0f;  // also where it is not a number
    at[i] = p < 1.0f ? p : 1.0f;
  }
  const int stride = padded(slots.n_slots);
  const float* axis = slots.axis + slot;
  const Vec u = splat(at[0]) * load(axis) + splat(at[1]) * load(axis + stride);
  const Vec v = splat(at[1]) * load(axis + 2 * stride) + splat(at[2]) * load(axis + 3 * stride);
  const Vec scale = load(slots.scale + slot), half = splat(0.5f), one = splat(1.0f);
  const Vec in_u = fma(u, scale, half), in_v = fma(v, scale, half);
  const IVec node_u = __builtin_convertvector(in_u, IVec), node_v = __builtin_convertvector(in_v, IVec);
  const Vec right = in_u - __builtin_convertvector(node_u, Vec), below = in_v - __builtin_convertvector(node_v, Vec);

  const IVec resolution = load(slots.resolution + slot), size = load(slots.size + slot);
  const IVec is_hashed = load(slots.is_hashed + slot), offset = load(slots.offset + slot);
  const UVec prime = 2654435761u - UVec{};
  const UVec first = reinterpret_cast<UVec>(node_v) * prime, mask = reinterpret_cast<UVec>(size - 1);
  const IVec row = node_v * resolution;
  Corners corners;
  for (int i = 0; i < 4; ++i) {
    const IVec u_i = node_u + (i & 1);
    const UVec hash = (reinterpret_cast<UVec>(u_i) ^ (i & 2 ? first + prime : first)) & mask;
    IVec dense = u_i + (i & 2 ? row + resolution : row);
    dense -= dense >= size ? size : IVec{};
    corners.index[i] = offset + (is_hashed ? reinterpret_cast<IVec>(hash) : dense);
    corners.weight[i] = (i & 1 ? right : one - right) * (i & 2 ? below : one - below);
  }
  return corners;
}

[[gnu::noinline]] static void encode(const FieldNet& net, const FieldBlock& block, float* in) {
  const FieldSlots& slots = net.slots;
  const int n_channels = slots.n_channels, stride = in_stride(net);
  for (int s = 0; s < FIELD_BLOCK; ++s) {
    const float* position = block.positions + 3 * (s < block.n ? s : block.n - 1);
    for (int slot = 0; slot < slots.n_slots; slot += LANES) {
      Corners corners = corners_of(slots, position, slot);
      for (int i = 0; i < 4; ++i) corners.index[i] *= n_channels;
      for (int channel = 0; channel < n_channels; ++channel) {
        Vec value = Vec{};
        for (int i = 0; i < 4; ++i)
          value = fma(corners.weight[i], gather(net.tables + channel, corners.index[i]), value);
        float* to = in + static_cast<long>(s) * stride + slot * n_channels + channel;
        if (n_channels == 1) {
          store(to, value);
          continue;
        }
        for (int lane = 0; lane < LANES && slot + lane < slots.n_slots; ++lane) to[lane * n_channels] = value[lane];
      }
    }
  }
}

[[gnu::noinline]] static void scatter(const FieldNet& net, const FieldBlock& block, const float* d_in, float* d_tables) {
  const FieldSlots& slots = net.slots;
  const int n_channels = slots.n_channels, stride = in_stride(net);
  for (int s = 0; s < block.n; ++s) {
    const float* d = d_in + static_cast<long>(s) * stride;
    for (int slot = 0; slot < slots.n_slots; slot += LANES) {
      const int n_lanes = slots.n_slots - slot < LANES ? slots.n_slots - slot : LANES;
      const Corners corners = corners_of(slots, block.positions + 3 * s, slot);
      for (int channel = 0; channel < n_channels; ++channel) {
        Vec gradient;
        if (n_channels == 1) {
          gradient = load(d + slot);
        } else {
          for (int lane = 0; lane < LANES; ++lane)
            gradient[lane] = lane < n_lanes ? d[(slot + lane) * n_channels + channel] : 0.0f;
        }
        for (int i = 0; i < 4; ++i) {
          float add[LANES];
          int32_t index[LANES];
          store(add, corners.weight[i] * gradient);
          store(index, corners.index[i]);
          for (int lane = 0; lane < n_lanes; ++lane)
            d_tables[static_cast<long>(index[lane]) * n_channels + channel] += add[lane];
        }
      }
    }
  }
}

// out = product of the block's rows with a layer.
template <Finish FINISH>
static void apply(const FieldLayer& layer, const float* in, long stride, float* out) {
  multiply<FINISH>(FIELD_BLOCK, layer.n_out, layer.n_in, {in, stride, 1}, layer.forward, padded(layer.n_out), out,
                   padded(layer.n_out));
}

// From the encoding in w.in to w.out.
static void decode(const FieldNet& net, const float* drive, const Workspace& w) {
  const int stride = in_stride(net), gates = padded(net.n_gates);
  apply<Finish::relu>(net.attention[0], w.in, stride, w.attended);
  apply<Finish::set>(net.attention[1], w.attended, padded(net.attention[0].n_out), w.gate);
  for (int s = 0; s < FIELD_BLOCK; ++s) {
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
    apply<Finish::relu>(net.density[i], in, in_row, w.hidden[i]);
    in = w.hidden[i];
    in_row = padded(net.density[i].n_out);
  }
  apply<Finish::set>(net.density[net.n_density - 1], in, in_row, w.out);
}

static long workspace_floats(const FieldNet& net) { return workspace_of(net, nullptr).n_floats; }

static void forward(const FieldNet& net, const FieldBlock& block, float* memory, float* log_density, float* feature) {
  const Workspace w = workspace_of(net, memory);
  encode(net, block, w.in);
  decode(net, block.drive, w);
  const int stride = padded(1 + net.n_feature);
  for (int s = 0; s < block.n; ++s) {
    const float* row = w.out + static_cast<long>(s) * stride;
    log_density[s] = row[0];
    __builtin_memcpy(feature + static_cast<long>(s) * net.n_feature, row + 1, sizeof(float) * net.n_feature);
  }
}

// sum += d^T in: the gradient of a layer's weights.
static void add_weights(const FieldLayer& layer, const float* d, const float* in, long in_row, float* sum) {
  multiply<Finish::add>(layer.n_out, layer.n_in, FIELD_BLOCK, {d, 1, padded(layer.n_out)}, in, in_row, sum,
                        padded(layer.n_in));
}

// d_in = d times the layer's weights.
template <Finish FINISH>
static void push_back(const FieldLayer& layer, const float* d, float* d_in, long d_in_row, const float* gate = nullptr) {
  multiply<FINISH>(FIELD_BLOCK, layer.n_in, layer.n_out, {d, padded(layer.n_out), 1}, layer.backward,
                   padded(layer.n_in), d_in, d_in_row, gate);
}

// Gradient of the gated inputs -> of the attention's output, and of condition and expression.
static void gate_backward(const FieldNet& net, const FieldBlock& block, const Workspace& w, float* d_drive) {
  const int stride = in_stride(net), gates = padded(net.n_gates);
  for (int i = 0; i < net.n_gates; i += LANES) {
    const Vec drive = load(block.drive + i);
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

static void backward(const FieldNet& net, const FieldBlock& block, float* memory, const float* d_log_density,
                     const float* d_feature, const FieldSums& sums, float* d_drive) {
  const Workspace w = workspace_of(net, memory);
  encode(net, block, w.in);
  decode(net, block.drive, w);

  const int out_row = padded(1 + net.n_feature), stride = in_stride(net);
  __builtin_memset(w.d_out, 0, sizeof(float) * FIELD_BLOCK * out_row);
  for (int s = 0; s < block.n; ++s) {
    float* row = w.d_out + static_cast<long>(s) * out_row;
    row[0] = d_log_density[s];
    __builtin_memcpy(row + 1, d_feature + static_cast<long>(s) * net.n_feature, sizeof(float) * net.n_feature);
  }
  const float* d = w.d_out;
  for (int i = net.n_density - 1; i > 0; --i) {
    const FieldLayer& layer = net.density[i];
    add_weights(layer, d, w.hidden[i - 1], padded(layer.n_in), sums.density[i]);
    push_back<Finish::mask>(layer, d, w.d_hidden[i & 1], padded(layer.n_in), w.hidden[i - 1]);
    d = w.d_hidden[i & 1];
  }
  add_weights(net.density[0], d, w.in, stride, sums.density[0]);
  push_back<Finish::set>(net.density[0], d, w.d_in, stride);

  gate_backward(net, block, w, d_drive);
  const int attended = padded(net.attention[0].n_out);
  add_weights(net.attention[1], w.d_gate, w.attended, attended, sums.attention[1]);
  push_back<Finish::mask>(net.attention[1], w.d_gate, w.d_attended, attended, w.attended);
  add_weights(net.attention[0], w.d_attended, w.in, stride, sums.attention[0]);
  push_back<Finish::add>(net.attention[0], w.d_attended, w.d_in, stride);
  scatter(net, block, w.d_in, sums.tables);
}

extern const FieldPath field_path;
const FieldPath field_path{workspace_floats, forward, backward};

}  // namespace synctalk::SYNCTALK_PATH
