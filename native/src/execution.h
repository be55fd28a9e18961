// The common part of convolution and matrix product: a primitive with its layouts, and a cache of them.
#pragma once

#include <array>
#include <cstdint>
#include <dnnl.hpp>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace drsn {

// An operand or result: its layout in XLA, the layout for the primitive, and its name in the primitive.
struct Port {
  int argument;
  dnnl::memory::desc outside;
  dnnl::memory::desc inside;
};

// A primitive of two operands and a result, with conversions of layouts before and after it.
class Program {
 public:
  Program(dnnl::primitive primitive, std::array<Port, 3> ports);

  // Only in the worker's thread: scratch memory is shared by all programs.
  void Execute(const void* first, const void* second, void* result);

 private:
  dnnl::memory Inside(int index, void* data, dnnl::stream& stream);

  dnnl::primitive primitive_;
  std::array<Port, 3> ports_;
  std::array<dnnl::reorder, 3> reorders_;
};

using Key = std::vector<int64_t>;

// Finds or makes the program for a key, and executes it in the worker's thread. Returns oneDNN's message for an error.
xla::ffi::Error ExecuteCached(const Key& key, const std::function<Program()>& make, const void* first, const void* second, void* result);

dnnl::engine& Engine();

// Throws std::invalid_argument for all but float32 and bfloat16.
dnnl::memory::data_type DataType(xla::ffi::DataType type);

}  // namespace drsn
