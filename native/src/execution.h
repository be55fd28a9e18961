// What convolution and matrix product share: a primitive with the layouts that it computes in, and a cache of such.
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

// An operand or result: the layout that XLA has it in, the one that the primitive wants, and the name that it has in the primitive.
struct Port {
  int argument;
  dnnl::memory::desc outside;
  dnnl::memory::desc inside;
};

// A primitive of two operands and a result, with the changes of layout before and after it where layouts differ.
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

// Finds the program for a key or makes it, and executes it, in the worker's thread. What oneDNN says of an error is returned.
xla::ffi::Error ExecuteCached(const Key& key, const std::function<Program()>& make, const void* first, const void* second, void* result);

dnnl::engine& Engine();

// Throws std::invalid_argument for all but float32 and bfloat16.
dnnl::memory::data_type DataType(xla::ffi::DataType type);

}  // namespace drsn
