#include "peak.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "simd.h"

namespace synctalk {

namespace portable {
extern const PeakPath peak_path;
}
#ifdef SYNCTALK_X86
namespace avx2 {
extern const PeakPath peak_path;
}
namespace avxvnni {
extern const PeakPath peak_path;
}
namespace avx512 {
extern const PeakPath peak_path;
}
namespace avx512vnni {
extern const PeakPath peak_path;
}
#else
namespace avx2 = portable;
namespace avxvnni = portable;
namespace avx512 = portable;
namespace avx512vnni = portable;
#endif

namespace {

constexpr int64_t kTurns = 1 << 19;  // one to five milliseconds

std::vector<PeakLoop> usable_loops() {
  const PeakPath& path =
      by_simd(portable::peak_path, avx2::peak_path, avxvnni::peak_path, avx512::peak_path, avx512vnni::peak_path);
  std::vector<PeakLoop> loops(path.loops, path.loops + path.n_loops);
  loops.erase(std::remove_if(loops.begin(), loops.end(), [](const PeakLoop& loop) { return !loop.can_run(); }),
              loops.end());
  return loops;
}

// The best turns a second until the time is over, at least once.
double best_rate(const PeakLoop& loop, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto elapsed = [](Clock::time_point since) {
    return std::chrono::duration<double>(Clock::now() - since).count();
  };
  const auto began = Clock::now();
  double best = 0.0;
  do {
    const auto started = Clock::now();
    loop.run(kTurns);
    best = std::max(best, static_cast<double>(kTurns) / elapsed(started));
  } while (elapsed(began) < seconds);
  return best;
}

}  // namespace

std::vector<std::string> peak_kinds() {
  std::vector<std::string> kinds;
  for (const PeakLoop& loop : usable_loops()) kinds.emplace_back(loop.kind);
  return kinds;
}

double measure_peak(const std::string& kind, int threads, double seconds) {
  if (threads < 1) throw std::invalid_argument("threads: expected 1 or more, got " + std::to_string(threads));
  if (!(seconds > 0.0)) throw std::invalid_argument("seconds: expected to be positive");
  const auto loops = usable_loops();
  const auto loop = std::find_if(loops.begin(), loops.end(), [&](const PeakLoop& one) { return one.kind == kind; });
  if (loop == loops.end()) {
    throw std::invalid_argument("kind \"" + kind + "\" cannot be measured on " + simd_name() + ": see peak_kinds()");
  }
  std::vector<double> rates(static_cast<size_t>(threads));
  std::vector<std::thread> workers;
  for (double& rate : rates) workers.emplace_back([&rate, &loop, seconds] { rate = best_rate(*loop, seconds); });
  double turns = 0.0;
  for (size_t i = 0; i < workers.size(); ++i) {
    workers[i].join();
    turns += rates[i];
  }
  return turns * static_cast<double>(loop->multiply_adds);
}

}  // namespace synctalk
