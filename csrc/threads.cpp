#include "threads.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace synctalk {
namespace {

struct Job {
  const std::function<void(int64_t, int64_t)>& fn;
  const int64_t n, grain;
  std::atomic<int64_t> next{0};
  int helpers = 0;  // workers inside run(); guarded by the pool's mutex
  std::exception_ptr error{};
  std::mutex error_mutex{};

  bool is_taken() const { return next.load(std::memory_order_relaxed) >= n; }

  void run() {
    for (;;) {
      const int64_t begin = next.fetch_add(grain);
      if (begin >= n) return;
      try {
        fn(begin, std::min(begin + grain, n));
      } catch (...) {
        std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
        next = n;
      }
    }
  }
};

class Pool {
 public:
  explicit Pool(int n) { resize(n); }

  int size() const { return n_threads_; }

  void resize(int n) {
    std::lock_guard resizing(resize_mutex_);
    stop();
    for (int i = 1; i < n; ++i) workers_.emplace_back([this] { work(); });
    n_threads_ = n;
  }

  void run(Job& job) {
    {
      std::lock_guard lock(mutex_);
      jobs_.push_back(&job);
    }
    const int64_t n_pieces = (job.n + job.grain - 1) / job.grain;
    const int64_t n_wake = std::min<int64_t>(n_pieces, n_threads_) - 1;
    for (int64_t i = 0; i < n_wake; ++i) work_ready_.notify_one();
    job.run();
    std::unique_lock lock(mutex_);
    forget(&job);
    job_done_.wait(lock, [&] { return job.helpers == 0; });
  }

 private:
  void stop() {
    {
      std::lock_guard lock(mutex_);
      is_stopping_ = true;
    }
    work_ready_.notify_all();
    for (auto& worker : workers_) worker.join();
    workers_.clear();
    is_stopping_ = false;
  }

  void forget(Job* job) {
    const auto at = std::find(jobs_.begin(), jobs_.end(), job);
    if (at != jobs_.end()) jobs_.erase(at);
  }

  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      work_ready_.wait(lock, [&] { return is_stopping_ || !jobs_.empty(); });
      if (is_stopping_) return;
      Job* job = jobs_.front();
      if (job->is_taken()) {
        jobs_.pop_front();
        continue;
      }
      ++job->helpers;
      lock.unlock();
      job->run();
      lock.lock();
      forget(job);
      if (--job->helpers == 0) job_done_.notify_all();
    }
  }

  std::mutex mutex_, resize_mutex_;
  std::condition_variable work_ready_, job_done_;
  std::deque<Job*> jobs_;
  std::vector<std::thread> workers_;
  std::atomic<int> n_threads_{1};
  bool is_stopping_ = false;
};

int usable_cpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

std::atomic<Pool*> instance{nullptr};
std::atomic<int> wanted{0};  // threads, once the pool was made
std::atomic_flag is_being_made = ATOMIC_FLAG_INIT;

// A forked child has none of the workers, and mutexes in any state: it leaves the pool behind and makes one of its own.
void forget_pool() {
  instance = nullptr;
  is_being_made.clear();
}

// Made on first use, never destroyed: sleeping workers must not outlive it at exit.
Pool& pool() {
  Pool* made = instance.load();
  if (made) return *made;
  static const int failure = pthread_atfork(nullptr, nullptr, forget_pool);
  if (failure) throw std::runtime_error("pthread_atfork: no memory left");
  while (is_being_made.test_and_set()) std::this_thread::yield();  // no mutex: the fork may find it locked
  if (!(made = instance.load())) {
    made = new Pool(wanted ? wanted.load() : usable_cpus());
    wanted = made->size();
    instance = made;
  }
  is_being_made.clear();
  return *made;
}

}  // namespace

int threads() { return pool().size(); }

void set_threads(int n) {
  if (n < 1 || n > 1024) throw std::invalid_argument("set_threads: expected 1 to 1024, got " + std::to_string(n));
  pool().resize(n);
  wanted = n;
}

void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& fn) {
  if (n <= 0) return;
  Job job{fn, n, std::max<int64_t>(grain, 1)};
  if (n <= job.grain || pool().size() == 1) {
    job.run();
  } else {
    pool().run(job);
  }
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace synctalk
