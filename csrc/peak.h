// How fast this CPU multiplies and adds, by kind of arithmetic: what the renderer's speed is compared with.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace synctalk {

// A loop of independent multiply-adds on registers.
struct PeakLoop {
  const char* kind;       // "fp32", "bf16", "int16" or "int8"
  int64_t multiply_adds;  // of one turn
  bool (*can_run)();
  void (*run)(int64_t turns);
};

struct PeakPath {
  const PeakLoop* loops;
  int n_loops;
};

// The kinds that the instruction set in use can measure.
std::vector<std::string> peak_kinds();

// Multiply-adds a second of `threads` threads that do nothing else: the sum of each one's best few milliseconds.
// Throws std::invalid_argument for a kind that is not among peak_kinds(), threads < 1, or seconds that are not
// positive.
double measure_peak(const std::string& kind, int threads, double seconds);

}  // namespace synctalk
