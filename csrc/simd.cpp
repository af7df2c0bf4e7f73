#include "simd.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace synctalk {
namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avxvnni", "avx512", "avx512vnni"};

bool can_run(Simd path) {
#ifdef SYNCTALK_X86
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  switch (path) {
    case Simd::avx512vnni: return has_avx512 && __builtin_cpu_supports("avx512vnni");
    case Simd::avx512: return has_avx512;
    case Simd::avxvnni: return has_avx2 && __builtin_cpu_supports("avxvnni");
    case Simd::avx2: return has_avx2;
    default: return true;
  }
#else
  return path == Simd::portable;
#endif
}

Simd checked(const std::string& name) {
  const auto paths = simd_paths();
  if (std::find(paths.begin(), paths.end(), name) == paths.end()) {
    std::string known;
    for (const auto& path : paths) known += (known.empty() ? "" : ", ") + path;
    throw std::invalid_argument("SIMD path \"" + name + "\" cannot run here: choose " + known);
  }
  return static_cast<Simd>(std::find(std::begin(kNames), std::end(kNames), name) - std::begin(kNames));
}

Simd initial() {
  if (const char* name = std::getenv("SYNCTALK_SIMD"); name && *name) return checked(name);
  return checked(simd_paths().back());
}

std::atomic<Simd>& current() {
  static std::atomic<Simd> path{initial()};
  return path;
}

}  // namespace

std::vector<std::string> simd_paths() {
  std::vector<std::string> paths;
  for (const Simd path : {Simd::portable, Simd::avx2, Simd::avxvnni, Simd::avx512, Simd::avx512vnni}) {
    if (can_run(path)) paths.emplace_back(kNames[static_cast<int>(path)]);
  }
  return paths;
}

Simd simd() { return current().load(std::memory_order_relaxed); }

std::string simd_name() { return kNames[static_cast<int>(simd())]; }

void set_simd(const std::string& name) { current() = checked(name); }

}  // namespace synctalk
