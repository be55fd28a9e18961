// The one thread that computes with oneDNN, and its OpenMP team.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

namespace drsn {

// XLA calls from any thread of its pool. libgomp keeps a team for every thread that opens a parallel region, so that on n cores up
// to n * n threads would exist, and concurrent calls would compete for the cores. One thread for all calls means one team.
class Worker {
 public:
  static Worker& Get();

  // Sets the size of the team; 0 leaves it to OpenMP (OMP_NUM_THREADS). Takes effect from the next job on.
  void SetThreads(int threads);

  // Runs the job in the worker's thread, waits for it and rethrows what it threw.
  void Run(std::function<void()> job);

 private:
  Worker();
  void Loop();

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<std::packaged_task<void()>> jobs_;
  std::thread thread_;
};

}  // namespace drsn
