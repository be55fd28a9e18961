#include "execution.h"

#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

#include "worker.h"

namespace drsn {

namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kMaxPrograms = 1024;

// Memory for maps and kernels in the primitive's layout. It grows to what the largest call needs and stays.
class Scratch {
 public:
  void* Get(size_t size) {
    if (size > size_) {
      std::free(data_);
      size_ = (size + kAlignment - 1) / kAlignment * kAlignment;
      data_ = std::aligned_alloc(kAlignment, size_);
      if (data_ == nullptr) {
        size_ = 0;
        throw std::bad_alloc();
      }
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

std::array<Scratch, 3>& Scratches() {
  static auto* scratches = new std::array<Scratch, 3>();
  return *scratches;
}

std::map<Key, std::unique_ptr<Program>>& Programs() {
  static auto* programs = new std::map<Key, std::unique_ptr<Program>>();
  return *programs;
}

}  // namespace

dnnl::engine& Engine() {
  static auto* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

dnnl::memory::data_type DataType(xla::ffi::DataType type) {
  if (type == xla::ffi::F32) return dnnl::memory::data_type::f32;
  if (type == xla::ffi::BF16) return dnnl::memory::data_type::bf16;
  throw std::invalid_argument("drsn_jax_native computes in float32 and bfloat16 only");
}

Program::Program(dnnl::primitive primitive, std::array<Port, 3> ports) : primitive_(std::move(primitive)), ports_(std::move(ports)) {
  for (int i = 0; i < 3; ++i) {
    const Port& port = ports_[i];
    if (port.outside == port.inside) continue;
    const auto& [from, to] = i < 2 ? std::pair(port.outside, port.inside) : std::pair(port.inside, port.outside);
    reorders_[i] = dnnl::reorder(dnnl::reorder::primitive_desc(Engine(), from, Engine(), to));
  }
}

dnnl::memory Program::Inside(int index, void* data, dnnl::stream& stream) {
  const Port& port = ports_[index];
  dnnl::memory outside(port.outside, Engine(), data);
  if (!reorders_[index]) return outside;
  dnnl::memory inside(port.inside, Engine(), Scratches()[index].Get(port.inside.get_size()));
  if (index < 2) reorders_[index].execute(stream, outside, inside);
  return inside;
}

void Program::Execute(const void* first, const void* second, void* result) {
  dnnl::stream stream(Engine());
  // oneDNN's memory has no const; the primitive only reads its operands.
  dnnl::memory a = Inside(0, const_cast<void*>(first), stream);
  dnnl::memory b = Inside(1, const_cast<void*>(second), stream);
  dnnl::memory out = Inside(2, result, stream);
  primitive_.execute(stream, {{ports_[0].argument, a}, {ports_[1].argument, b}, {ports_[2].argument, out}});
  if (reorders_[2]) {
    dnnl::memory outside(ports_[2].outside, Engine(), result);
    reorders_[2].execute(stream, out, outside);
  }
  stream.wait();
}

xla::ffi::Error ExecuteCached(const Key& key, const std::function<Program()>& make, const void* first, const void* second, void* result) {
  try {
    Worker::Get().Run([&] {
      auto& programs = Programs();
      auto found = programs.find(key);
      if (found == programs.end()) {
        if (programs.size() >= kMaxPrograms) programs.clear();
        found = programs.emplace(key, std::make_unique<Program>(make())).first;
      }
      found->second->Execute(first, second, result);
    });
  } catch (const dnnl::error& error) {
    return xla::ffi::Error(xla::ffi::ErrorCode::kInternal, std::string("oneDNN: ") + error.what());
  } catch (const std::exception& error) {
    return xla::ffi::Error(xla::ffi::ErrorCode::kInternal, error.what());
  }
  return xla::ffi::Error::Success();
}

}  // namespace drsn
