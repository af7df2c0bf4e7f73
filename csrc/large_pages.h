// Memory for tables that are read all over: on pages of 2 MB where the system has them, so that addresses are found
// fast.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace synctalk {

// n values, all zero.
template <class Value>
class LargePages {
 public:
  LargePages() = default;
  explicit LargePages(int64_t n) {
    constexpr size_t kPage = size_t{1} << 21;
    const size_t n_bytes = (static_cast<size_t>(n) * sizeof(Value) + kPage - 1) / kPage * kPage;
    void* memory = std::aligned_alloc(kPage, n_bytes);
    if (!memory) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    madvise(memory, n_bytes, MADV_HUGEPAGE);  // a wish: without, everything works as before
#endif
    values_.reset(static_cast<Value*>(memory));
    std::uninitialized_fill_n(values_.get(), n, Value{0});
  }
  Value* data() { return values_.get(); }

 private:
  struct Free {
    void operator()(Value* memory) const { std::free(memory); }
  };
  std::unique_ptr<Value, Free> values_;
};

}  // namespace synctalk
