// The field and the colour network for GPUs, twice: a warp's rows in half precision, and one row in float32.
#pragma once

#include "gpu_net.h"

namespace synctalk::gpu {

SYNCTALK_HD float sigmoid_of(float x) { return 1.0f / (1.0f + expf(-x)); }

SYNCTALK_HD uint64_t load_quad(const uint64_t* at) {
#ifdef __CUDA_ARCH__
  return __ldg(reinterpret_cast<const unsigned long long*>(at));
#else
  return *at;
#endif
}

SYNCTALK_HD Weights load_weights(const uint32_t* at) {
#ifdef __CUDA_ARCH__
  const uint2 pair = __ldg(reinterpret_cast<const uint2*>(at));
  return {{pair.x, pair.y}};
#else
  return {{at[0], at[1]}};
#endif
}

// One column of the encoding of a position u, v in 0..1.
SYNCTALK_HD float look_up(const GpuNet& net, const GpuColumn& column, float u, float v) {
  const float at_u = u * column.scale + 0.5f, at_v = v * column.scale + 0.5f;
  const int cell_u = static_cast<int>(at_u), cell_v = static_cast<int>(at_v);
  const float right = at_u - static_cast<float>(cell_u), below = at_v - static_cast<float>(cell_v);
  const uint64_t quad = load_quad(net.quads + column.first + static_cast<int64_t>(cell_v) * column.n_cells + cell_u);
  const float a = half_to_float(static_cast<uint16_t>(quad)), b = half_to_float(static_cast<uint16_t>(quad >> 16));
  const float c = half_to_float(static_cast<uint16_t>(quad >> 32)),
              d = half_to_float(static_cast<uint16_t>(quad >> 48));
  const float above = a + right * (b - a), under = c + right * (d - c);
  return above + below * (under - above);
}

// One column of the encoding of a row; 0 behind the last.
SYNCTALK_HD float encoded_value(const GpuNet& net, const GpuSpace& space, int row, int column) {
  if (column >= net.n_encoded) return 0.0f;
  const GpuColumn& one = net.columns[column];
  return look_up(net, one, space.unit[one.u_axis * THREADS + row], space.unit[one.v_axis * THREADS + row]);
}

// Direction and appearance as the colour network sees them.
struct ViewInputs {
  float harmonics[16];
  const float* appearance;
  int n_directions, n_appearance;

  SYNCTALK_HD ViewInputs(const GpuNet& net, const GpuFrame& frame, const GpuSpace& space, int ray)
      : appearance(frame.appearance), n_directions(net.n_directions), n_appearance(net.n_appearance) {
    const float direction[3] = {space.direction[ray], space.direction[THREADS + ray],
                                space.direction[2 * THREADS + ray]};
    spherical_harmonics(direction, harmonics);
  }

  SYNCTALK_HD float operator[](int i) const {
    if (i < n_directions) return harmonics[i];
    return i < n_directions + n_appearance ? appearance[i - n_directions] : 0.0f;
  }
};

SYNCTALK_HD void stage_view(const ViewInputs& view, Word* words) {
  const int n = padded_inputs(view.n_directions + view.n_appearance) / 2;
  for (int i = 0; i < n; ++i) words[i].halves = pack_halves(view[2 * i], view[2 * i + 1]);
}

enum class Finish { linear, relu, sigmoid };

SYNCTALK_HD float finished(float sum, Finish finish) {
  if (finish == Finish::relu) return sum > 0.0f ? sum : 0.0f;
  return finish == Finish::sigmoid ? sigmoid_of(sum) : sum;
}

// The state of a warp between two layers of at most 8 * TILES outputs: 16 rows in registers.
template <int TILES, class Warp>
struct WarpNetwork {
  struct LaneSums {
    Sums tile[TILES];
  };
  struct LaneInputs {
    Activations step[TILES / 2];
  };

  const Warp& warp;
  typename Warp::template Lanes<LaneSums> sums;
  typename Warp::template Lanes<LaneInputs> inputs;
  typename Warp::template Lanes<Activations> staged;
  typename Warp::template Lanes<Weights> weights;

  SYNCTALK_HD explicit WarpNetwork(const Warp& of) : warp(of) {}

  SYNCTALK_HD void clear() {
    warp.each([&](int lane) {
      SYNCTALK_UNROLL
      for (int n = 0; n < TILES; ++n) sums[lane].tile[n] = {};
    });
  }

  // sums += inputs in 16 rows of memory, `row_words` apart, times a matrix.
  SYNCTALK_HD void add_rows(const GpuMatrix& matrix, const uint32_t* words, const Word* rows, int row_words) {
    for (int k = 0; k < matrix.n_steps; ++k) {
      warp.each([&](int lane) {
        const Word* at = rows + lane_row(lane) * row_words + (k * STEP_INPUTS + lane_column(lane)) / 2;
        staged[lane] = {{at[0].halves, at[8 * row_words].halves, at[4].halves, at[8 * row_words + 4].halves}};
      });
      add_step(matrix, words, k, staged, [](Activations& a) -> Activations& { return a; });
    }
  }

  // sums += inputs times a matrix.
  SYNCTALK_HD void add_inputs(const GpuMatrix& matrix, const uint32_t* words) {
    SYNCTALK_UNROLL
    for (int k = 0; k < TILES / 2; ++k) {
      if (k >= matrix.n_steps) continue;
      add_step(matrix, words, k, inputs, [k](LaneInputs& of) -> Activations& { return of.step[k]; });
    }
  }

  // The sums become the next layer's inputs.
  SYNCTALK_HD void pass(Finish finish) {
    warp.each([&](int lane) {
      SYNCTALK_UNROLL
      for (int k = 0; k < TILES / 2; ++k) {
        const float *low = sums[lane].tile[2 * k].value, *high = sums[lane].tile[2 * k + 1].value;
        inputs[lane].step[k] = {{pack_halves(finished(low[0], finish), finished(low[1], finish)),
                                 pack_halves(finished(low[2], finish), finished(low[3], finish)),
                                 pack_halves(finished(high[0], finish), finished(high[1], finish)),
                                 pack_halves(finished(high[2], finish), finished(high[3], finish))}};
      }
    });
    clear();
  }

  // Calls put(row, output, sum) for the first n outputs of the 16 rows.
  template <class Put>
  SYNCTALK_HD void for_outputs(int n, Put put) {
    warp.each([&](int lane) {
      SYNCTALK_UNROLL
      for (int tile = 0; tile < TILES; ++tile) {
        SYNCTALK_UNROLL
        for (int c = 0; c < 4; ++c) {
          const int output = tile * TILE_OUTPUTS + lane_column(lane) + c % 2;
          if (output < n) put(lane_row(lane) + c / 2 * 8, output, sums[lane].tile[tile].value[c]);
        }
      }
    });
    warp.sync();  // together again: what follows may be a product
  }

 private:
  template <class A, class Pick>
  SYNCTALK_HD void add_step(const GpuMatrix& matrix, const uint32_t* words, int k, A& activations, Pick pick) {
    const uint32_t* fragments = words + k * matrix.n_tiles * FRAGMENT_WORDS;
    SYNCTALK_UNROLL
    for (int n = 0; n < TILES; ++n) {
      if (n >= matrix.n_tiles) continue;
      warp.each([&](int lane) { weights[lane] = load_weights(fragments + n * FRAGMENT_WORDS + 2 * lane); });
      warp.multiply(sums, [n](LaneSums& of) -> Sums& { return of.tile[n]; }, activations, pick, weights);
    }
  }
};

// From 16 rows' features, which the network has as inputs or finds in memory, to colours before the sigmoid.
template <int TILES, class Warp>
SYNCTALK_HD void colour_layers(const GpuNet& net, WarpNetwork<TILES, Warp>& network) {
  for (int i = 0; i < net.n_colour; ++i) {
    network.pass(Finish::relu);
    network.add_inputs(net.colour[i], net.words + net.colour[i].first_word);
  }
}

// 16 rows from encoded positions to log density and feature or, unless colour is deferred, log density and colour.
template <int TILES, class Warp>
SYNCTALK_HD void evaluate_rows(const GpuNet& net, const GpuSpace& space, const uint32_t* gated, const Warp& warp,
                               Word* rows) {
  WarpNetwork<TILES, Warp> network(warp);
  const int stride = space.row_words;
  const auto words = [&](const GpuMatrix& matrix) { return net.words + matrix.first_word; };
  network.clear();
  network.add_rows(net.attention[0], words(net.attention[0]), rows, stride);
  network.pass(Finish::relu);
  network.add_inputs(net.attention[1], words(net.attention[1]));
  network.pass(net.is_sigmoid ? Finish::sigmoid : Finish::linear);
  network.add_inputs(net.gated, gated);
  network.add_rows(net.encoded, words(net.encoded), rows, stride);
  for (int i = 0; i < net.n_density; ++i) {
    network.pass(Finish::relu);
    network.add_inputs(net.density[i], words(net.density[i]));
  }
  warp.sync();  // all lanes have read the rows: they may be written
  const auto put = [&](int row, int output, float sum) { rows[row * stride + output].value = sum; };
  network.for_outputs(net.is_deferred ? 1 + net.n_feature : 1, put);
  if (net.is_deferred) return;
  network.pass(Finish::linear);
  network.add_inputs(net.feature, words(net.feature));
  network.add_rows(net.view, words(net.view), rows + space.view_word, stride);
  colour_layers(net, network);
  network.for_outputs(3, [&](int row, int output, float sum) { put(row, 1 + output, sigmoid_of(sum)); });
}

// 16 rows of accumulated features, direction and appearance to colours.
template <int TILES, class Warp>
SYNCTALK_HD void colour_rows(const GpuNet& net, const GpuSpace& space, const Warp& warp, Word* rows) {
  WarpNetwork<TILES, Warp> network(warp);
  network.clear();
  network.add_rows(net.feature, net.words + net.feature.first_word, rows, space.row_words);
  network.add_rows(net.view, net.words + net.view.first_word, rows + space.view_word, space.row_words);
  colour_layers(net, network);
  warp.sync();
  network.for_outputs(
      3, [&](int row, int output, float sum) { rows[row * space.row_words + output].value = sigmoid_of(sum); });
}

// out[n_out] += weights * in, in float32.
template <class In>
SYNCTALK_HD void add_layer(const GpuNet& net, const GpuMatrix& matrix, const In& in, float* out) {
  const float* weights = net.floats + matrix.first_float;
  for (int n = 0; n < matrix.n_out; ++n) {
    float sum = out[n];
    for (int k = 0; k < matrix.n_in; ++k) sum += weights[n * matrix.n_in + k] * in[k];
    out[n] = sum;
  }
}

SYNCTALK_HD void finish_layer(int n, Finish finish, float* values, float* cleared) {
  for (int i = 0; i < n; ++i) values[i] = finished(values[i], finish);
  for (int i = 0; i < MAX_WIDTH; ++i) cleared[i] = 0.0f;
}

// Layers behind the first, from a to the one of a and b that is returned.
SYNCTALK_HD float* remaining_layers(const GpuNet& net, const GpuMatrix* layers, int n, float* a, float* b) {
  for (int i = 0; i < n; ++i) {
    finish_layer(layers[i].n_in, Finish::relu, a, b);
    add_layer(net, layers[i], a, b);
    float* swapped = a;
    a = b;
    b = swapped;
  }
  return a;
}

// Colours after the sigmoid of features that follow a log density, or whatever is finite.
SYNCTALK_HD void colour_of(const GpuNet& net, const float* feature, const ViewInputs& view, float* a, float* b,
                           float colour[3]) {
  for (int i = 0; i < MAX_WIDTH; ++i) a[i] = 0.0f;
  add_layer(net, net.feature, feature, a);
  add_layer(net, net.view, view, a);
  const float* out = remaining_layers(net, net.colour, net.n_colour, a, b);
  for (int c = 0; c < 3; ++c) colour[c] = sigmoid_of(out[c]);
}

// One row from its position to what evaluate_rows writes, in float32.
SYNCTALK_HD void evaluate_row(const GpuNet& net, const GpuFrame& frame, const GpuSpace& space, int row) {
  float x[MAX_WIDTH], a[MAX_WIDTH] = {}, b[MAX_WIDTH] = {};
  for (int column = 0; column < net.n_encoded; ++column) x[column] = encoded_value(net, space, row, column);
  add_layer(net, net.attention[0], x, a);
  finish_layer(net.attention[0].n_out, Finish::relu, a, b);
  add_layer(net, net.attention[1], a, b);
  finish_layer(net.n_gates, net.is_sigmoid ? Finish::sigmoid : Finish::linear, b, a);
  for (int i = 0; i < net.n_gates; ++i) b[i] *= frame.drive[i];
  add_layer(net, net.encoded, x, a);
  add_layer(net, net.gated, b, a);
  float* out = remaining_layers(net, net.density, net.n_density, a, b);
  Word* to = space.rows + row * space.row_words;
  if (net.is_deferred) {
    for (int i = 0; i < 1 + net.n_feature; ++i) to[i].value = out[i];
    return;
  }
  for (int i = 0; i < 1 + net.n_feature; ++i) x[i] = out[i];
  float colour[3];
  colour_of(net, x, ViewInputs(net, frame, space, space.owner[row]), a, b, colour);
  to[0].value = x[0];
  for (int c = 0; c < 3; ++c) to[1 + c].value = colour[c];
}

}  // namespace synctalk::gpu
