// Which instruction set the kernels use: the best that this CPU has, or the one that was asked for.
//
// Every path is a translation unit of its own, compiled with its own flags: files named *_avx2.cpp, *_avxvnni.cpp,
// *_avx512.cpp and *_avx512vnni.cpp. The VNNI ones differ in 16-bit integers only; other kernels use the path before.
// Such files must not emit code that others share: no standard containers, and only SYNCTALK_HD functions from headers.
#pragma once

#include <string>
#include <vector>

namespace synctalk {

enum class Simd { portable, avx2, avxvnni, avx512, avx512vnni };

// The paths this CPU can run, portable first.
std::vector<std::string> simd_paths();

// The path in use: set_simd, else the environment's SYNCTALK_SIMD, else the best.
Simd simd();
std::string simd_name();

// Throws std::invalid_argument for a name that is unknown or that this CPU cannot run.
void set_simd(const std::string& name);

// One of three tables of functions, by the path in use.
template <class Table>
const Table& by_simd(const Table& portable, const Table& avx2, const Table& avx512) {
  switch (simd()) {
    case Simd::avx512vnni:
    case Simd::avx512: return avx512;
    case Simd::avxvnni:
    case Simd::avx2: return avx2;
    default: return portable;
  }
}

// The same where VNNI makes a difference.
template <class Table>
const Table& by_simd(const Table& portable, const Table& avx2, const Table& avxvnni, const Table& avx512,
                     const Table& avx512vnni) {
  switch (simd()) {
    case Simd::avxvnni: return avxvnni;
    case Simd::avx512vnni: return avx512vnni;
    default: return by_simd(portable, avx2, avx512);
  }
}

}  // namespace synctalk
