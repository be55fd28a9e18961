#include "worker.h"

#include <omp.h>
#include <xmmintrin.h>

#include <utility>

namespace drsn {

namespace {
constexpr unsigned kFlushToZero = 0x8000;        // of results
constexpr unsigned kDenormalsAreZero = 0x0040;   // of operands
}  // namespace

Worker& Worker::Get() {
  // Never destroyed: the thread may still wait while the process exits.
  static Worker* worker = new Worker();
  return *worker;
}

Worker::Worker() : thread_([this] { Loop(); }) { thread_.detach(); }

void Worker::SetThreads(int threads) {
  if (threads > 0) Run([threads] { omp_set_num_threads(threads); });
}

void Worker::Run(std::function<void()> job) {
  std::packaged_task<void()> task(std::move(job));
  std::future<void> done = task.get_future();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    jobs_.push_back(std::move(task));
  }
  arrived_.notify_one();
  done.get();
}

void Worker::Loop() {
  // Denormal numbers slow the kernels down many times. The team inherits this, nobody else does.
  _mm_setcsr(_mm_getcsr() | kFlushToZero | kDenormalsAreZero);
  for (;;) {
    std::packaged_task<void()> task;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      arrived_.wait(lock, [this] { return !jobs_.empty(); });
      task = std::move(jobs_.front());
      jobs_.pop_front();
    }
    task();
  }
}

}  // namespace drsn
