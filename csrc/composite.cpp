#include "composite.h"

#include "simd.h"
#include "threads.h"

namespace synctalk {

namespace portable {
extern const CompositeLoops composite_loops;
}
#ifdef SYNCTALK_X86
namespace avx2 {
extern const CompositeLoops composite_loops;
}
namespace avx512 {
extern const CompositeLoops composite_loops;
}
#else
namespace avx2 = portable;
namespace avx512 = portable;
#endif

namespace {

constexpr int64_t kGrain = 256;

const CompositeLoops& loops() {
  return by_simd(portable::composite_loops, avx2::composite_loops, avx512::composite_loops);
}

}  // namespace

void composite(const Samples& samples, int64_t n_rays, float* out, float* alpha, float* weight) {
  const CompositeLoops& path = loops();
  parallel_for(n_rays, kGrain,
               [&](int64_t begin, int64_t end) { path.forward(samples, out, alpha, weight, begin, end); });
}

void composite_backward(const Samples& samples, int64_t n_rays, const CompositeGradient& gradient) {
  const CompositeLoops& path = loops();
  parallel_for(n_rays, kGrain, [&](int64_t begin, int64_t end) { path.backward(samples, gradient, begin, end); });
}

}  // namespace synctalk
