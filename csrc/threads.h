// The process-wide thread pool: idle workers sleep, callers help with their own work.
#pragma once

#include <cstdint>
#include <functional>

namespace synctalk {

// Threads that a parallel_for may use, the caller included. Default: the CPUs this process may run on.
int threads();

// Throws std::invalid_argument unless 1 <= n <= 1024.
void set_threads(int n);

// Calls fn(begin, end) on pieces of [0, n) of `grain` items (the last may be shorter). Where the pieces lie depends on
// n and grain only, never on the number of threads. May be called from many threads at once, and nested. The first
// exception that a piece throws is thrown again here, after the others have ended.
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& fn);

}  // namespace synctalk
