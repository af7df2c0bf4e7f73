// Weights of 8 bits in quads, for activations of 7 bits: shared by the head's renderer and the upsampler.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "quantised_net.h"

namespace synctalk {

constexpr float kByteGroupTop = 254.0f;  // of a group's weights of one sign: rounded, times 127, less than 2^15

// Four 8-bit weights as a word, the first in the lowest byte.
inline int32_t quad_of(const float* four, float factor) {
  uint32_t word = 0;
  for (int i = 0; i < 4; ++i) word |= (static_cast<uint32_t>(std::lrint(four[i] * factor)) & 0xffu) << (8 * i);
  return static_cast<int32_t>(word);
}

// The largest factor that a row of weights may have: none above 127, no group of quads whose products leave 16 bits.
// n_in: whole groups.
inline float byte_factor(const float* row, int n_in) {
  float largest = 1e-12f, most = 1e-12f;
  for (int first = 0; first < n_in; first += 4 * QUAD_GROUP) {
    float of_sign[2][2] = {};  // first or second half of the quads, sign
    for (int i = first; i < first + 4 * QUAD_GROUP; ++i) {
      of_sign[i / 2 % 2][row[i] < 0.0f] += std::fabs(row[i]);
      largest = std::max(largest, std::fabs(row[i]));
    }
    for (const auto& half : of_sign) most = std::max({most, half[0], half[1]});
  }
  return std::min(BYTE_TOP / largest, kByteGroupTop / most);
}

}  // namespace synctalk
