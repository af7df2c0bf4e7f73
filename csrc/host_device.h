// One source, two compilers: functions marked SYNCTALK_HD run on the CPU and, under nvcc, on the GPU.
#pragma once

#include <cstdint>

// Always inline: the same header is compiled with different instruction sets, and a shared out-of-line copy could be
// the one that this CPU cannot run.
#ifdef __CUDACC__
#define SYNCTALK_HD __host__ __device__ __forceinline__
#define SYNCTALK_UNROLL _Pragma("unroll")  // arrays in registers need indices that the compiler knows
#else
#define SYNCTALK_HD inline __attribute__((always_inline))
#define SYNCTALK_UNROLL
#endif
