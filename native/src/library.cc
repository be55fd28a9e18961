// What Python asks of the library beside computing: by ctypes.

#include <omp.h>

#include <dnnl.hpp>

#include "worker.h"

extern "C" {

void drsn_set_threads(int threads) { drsn::Worker::Get().SetThreads(threads); }

// The size of the team that computes, counted inside a parallel region.
int drsn_count_threads() {
  int threads = 0;
  drsn::Worker::Get().Run([&threads] {
#pragma omp parallel
    {
#pragma omp single
      threads = omp_get_num_threads();
    }
  });
  return threads;
}

// dnnl_cpu_isa_t: the newest set of instructions that oneDNN uses here.
int drsn_cpu_isa() { return static_cast<int>(dnnl::get_effective_cpu_isa()); }

}  // extern "C"
