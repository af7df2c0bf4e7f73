// The field in 16-bit integers on blocks of samples, for one instruction set; see quantised_net.h.
//
// Lanes are samples up to the last layer of the density network: a layer's inputs are rows of pairs [n_pairs][block],
// its weights are broadcast. The last layer, and the colour network, have outputs in the lanes and broadcast the
// activations.
#pragma once

#include "quad_block.h"

namespace synctalk::SYNCTALK_PATH {

// Vectors of samples at a time: with more, accumulators would leave the registers.
constexpr int SAMPLE_VECS = LANES == 16 ? 3 : 2;

// One layer with samples in the lanes: finish(first output, first sample, sums [4][VECS]) for all outputs.
template <int VECS, class Finish>
[[gnu::noinline]] static void multiply_samples(const QuantisedLayer& layer, const int32_t* in, int sample,
                                               const Finish& finish) {
  const int32_t* weights = layer.lanes_of_samples;
  const IVec half = splat(layer.shift > 0 ? 1 << (layer.shift - 1) : 0);
  for (int output = 0; output < layer.n_out; output += QUANTISED_OUTPUTS) {
    IVec sum[QUANTISED_OUTPUTS][VECS];
#pragma GCC unroll 4
    for (auto& row : sum) {
#pragma GCC unroll 4
      for (IVec& value : row) value = half;
    }
    const int32_t* from = in + sample;
    for (int k = 0; k < layer.n_pairs; ++k) {
      IVec left[VECS];
#pragma GCC unroll 4
      for (int v = 0; v < VECS; ++v) left[v] = load(from + v * LANES);
#pragma GCC unroll 4
      for (int o = 0; o < QUANTISED_OUTPUTS; ++o) {
        const IVec right = splat(weights[o]);
#pragma GCC unroll 4
        for (int v = 0; v < VECS; ++v) add_products(sum[o][v], left[v], right);
      }
      from += FIELD_BLOCK;
      weights += QUANTISED_OUTPUTS;
    }
    finish(output, sample, sum);
  }
}

template <class Finish>
static void multiply_block(const QuantisedLayer& layer, const int32_t* in, int n_rows, const Finish& finish) {
  int sample = 0;
  for (; sample + (SAMPLE_VECS - 1) * LANES < n_rows; sample += SAMPLE_VECS * LANES) {
    multiply_samples<SAMPLE_VECS>(layer, in, sample, finish);
  }
  for (; sample < n_rows; sample += LANES) multiply_samples<1>(layer, in, sample, finish);
}

// A hidden layer: pairs to pairs.
static void hidden_layer(const QuantisedLayer& layer, const int32_t* in, int n_rows, int32_t* out) {
  multiply_block(layer, in, n_rows, [&](int output, int sample, const auto& sum) {
    const auto cut = [&](IVec value) { return min(max(value >> layer.shift, IVec{}), splat(32767)); };
    int v = 0;
    for (const IVec& first : sum[0]) {
      int32_t* to = out + output / 2 * FIELD_BLOCK + sample + v * LANES;
      store(to, pair_of(cut(first), cut(sum[1][v])));
      store(to + FIELD_BLOCK, pair_of(cut(sum[2][v]), cut(sum[3][v])));
      ++v;
    }
  });
}

// Within 1e-6, and the same bits on every path: `sigmoid` multiplies and adds at once where it can.
static inline Vec quick_sigmoid(Vec x) {
  const Vec exponent = min(max(x * splat(-1.44269504f), splat(-30.0f)), splat(30.0f)), magic = splat(12582912.0f);
  const Vec shifted = exponent + magic;
  const Vec part = exponent - (shifted - magic);
  Vec power = splat(0.00956051021f);
  power = power * part + splat(0.0559170392f);
  power = power * part + splat(0.240249811f);
  power = power * part + splat(0.693121968f);
  power = power * part + splat(0.999999191f);
  const IVec whole = reinterpret_cast<IVec>(shifted) << 23;
  return splat(1.0f) / (splat(1.0f) + reinterpret_cast<Vec>(reinterpret_cast<IVec>(power) + whole));
}

// What the attention's last layer does with its sums: pairs of gated condition and expression.
// scale_of(output): of its sums.
template <class ScaleOf>
static auto gate_finish(bool is_sigmoid, const float* drive, float gated_scale, const ScaleOf& scale_of, int32_t* out) {
  return [=](int output, int sample, const auto& sum) {
    const auto gated = [&](int i, IVec value) {
      Vec open = __builtin_convertvector(value, Vec) * splat(scale_of(output + i));
      if (is_sigmoid) open = quick_sigmoid(open);
      const Vec wide = open * splat(drive[output + i] * gated_scale);
      return rounded(min(max(wide, splat(-32767.0f)), splat(32767.0f)));
    };
    int v = 0;
    for (const IVec& first : sum[0]) {
      int32_t* to = out + output / 2 * FIELD_BLOCK + sample + v * LANES;
      store(to, pair_of(gated(0, first), gated(1, sum[1][v])));
      store(to + FIELD_BLOCK, pair_of(gated(2, sum[2][v]), gated(3, sum[3][v])));
      ++v;
    }
  };
}

// ROWS samples of a layer with outputs in the lanes; activations `row` words apart, their pairs `step`.
template <int ROWS, int VECS>
[[gnu::noinline]] static void multiply_outputs(const QuantisedLayer& layer, int output, const int32_t* in, long row,
                                               long step, int n_rows, float* out, long out_row) {
  const long stride = padded(layer.n_out);
  for (int r = 0; r < n_rows; r += ROWS) {
    IVec sum[ROWS][VECS] = {};
    const int32_t *weights = layer.lanes_of_outputs + output, *from = in + r * row;
    for (int k = 0; k < layer.n_pairs; ++k) {
      IVec left[ROWS];
#pragma GCC unroll 4
      for (int i = 0; i < ROWS; ++i) left[i] = splat(from[i * row]);
#pragma GCC unroll 4
      for (int v = 0; v < VECS; ++v) {
        const IVec right = load(weights + v * LANES);
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; ++i) add_products(sum[i][v], left[i], right);
      }
      from += step;
      weights += stride;
    }
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < VECS; ++v) {
        store(out + (r + i) * out_row + output + v * LANES,
              __builtin_convertvector(sum[i][v], Vec) * splat(layer.scale));
      }
    }
  }
}

// A layer to float rows [n_rows, even][padded(n_out)].
static void output_layer(const QuantisedLayer& layer, const int32_t* in, long row, long step, int n_rows, float* out) {
  const int width = padded(layer.n_out);
  int output = 0;
  for (; output + 3 * LANES < layer.n_out; output += 4 * LANES) {
    multiply_outputs<2, 4>(layer, output, in, row, step, n_rows, out, width);
  }
  for (; output + LANES < layer.n_out; output += 2 * LANES) {
    multiply_outputs<2, 2>(layer, output, in, row, step, n_rows, out, width);
  }
  for (; output < layer.n_out; output += LANES) {
    multiply_outputs<2, 1>(layer, output, in, row, step, n_rows, out, width);
  }
}

// Words of a block's buffers in the quantised field.
struct QuantisedSpace {
  int32_t *in, *attended, *hidden[2];
  long n_words;
};

static QuantisedSpace quantised_space(const FieldNet& field, float* memory) {
  long used = 0;
  const auto take = [&](int n_values) {  // room for the kernels' groups of outputs and of quads
    int32_t* at = memory ? reinterpret_cast<int32_t*>(memory + used) : nullptr;
    used += static_cast<long>((n_values + 7) / 2) * FIELD_BLOCK;
    return at;
  };
  QuantisedSpace space{};
  int widest = 0;
  for (int i = 0; i < field.n_density; ++i) widest = field.density[i].n_out > widest ? field.density[i].n_out : widest;
  space.in = take(field.n_encoded + 1 + field.n_gates);
  space.attended = take(field.attention[0].n_out);
  for (auto& hidden : space.hidden) hidden = take(widest);
  space.n_words = used;
  return space;
}

// From positions of a block to the rows of the density network's output, as `decode` does.
static void decode_quantised(const FieldNet& field, const QuantisedNet& net, const float* drive, const float* axes,
                             const QuantisedSpace& space, int n_rows, float* out) {
  encode_quads(net, axes, (n_rows + ENCODE_ROWS - 1) / ENCODE_ROWS * ENCODE_ROWS, space.in);
  hidden_layer(net.attention[0], space.in, n_rows, space.attended);
  const auto scale_of = [&](int) { return net.attention[1].scale; };
  multiply_block(net.attention[1], space.attended, n_rows,
                 gate_finish(field.is_sigmoid, drive, net.gated_scale, scale_of,
                             space.in + (field.n_encoded + 1) / 2 * FIELD_BLOCK));
  const int32_t* in = space.in;
  for (int i = 0; i < field.n_density - 1; ++i) {
    hidden_layer(net.density[i], in, n_rows, space.hidden[i & 1]);
    in = space.hidden[i & 1];
  }
  output_layer(net.density[field.n_density - 1], in, 1, FIELD_BLOCK, n_rows, out);
}

// Float rows to rows of pairs; width: whole FIELD_ALIGN. Writes up to a vector more behind the last row.
static void quantise_rows(const float* rows, int width, const float* scales, bool is_hidden, int n_rows,
                          int32_t* pairs) {
  const Vec least = splat(is_hidden ? 0.0f : -1e30f);
  for (int r = 0; r < n_rows; ++r) {
    const float* from = rows + static_cast<long>(r) * width;
    int32_t* to = pairs + static_cast<long>(r) * (width / 2);
    for (int i = 0; i < width; i += 2 * LANES) {
      const IVec low = rounded(max(load(from + i), least) * load(scales + i));
      const IVec high = rounded(max(load(from + i + LANES), least) * load(scales + i + LANES));
      store(to + i / 2, narrowed(low, high));
    }
  }
}

}  // namespace synctalk::SYNCTALK_PATH
