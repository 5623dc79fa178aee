// What a kernel sees of a tensor: a pointer, a type and a shape. Every tensor is contiguous and row-major.
#pragma once
#include <cstddef>
#include <cstdint>

namespace infinity {

enum class DType : uint32_t { f32 = 0, f64 = 1, bf16 = 2, i32 = 3, u8 = 4 };
constexpr uint32_t kDTypeCount = 5;

constexpr size_t dtypeBytes(DType t) {
  return t == DType::f64 ? 8 : t == DType::f32 || t == DType::i32 ? 4 : t == DType::bf16 ? 2 : 1;
}

constexpr uint32_t kMaxRank = 6;

struct TensorView {
  void* data = nullptr;  // null: an optional operand that was left out
  DType dtype = DType::f32;
  uint32_t rank = 0;
  uint32_t dims[kMaxRank] = {};

  explicit operator bool() const { return data != nullptr; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  int64_t size() const {
    int64_t n = 1;
    for (uint32_t i = 0; i < rank; ++i) n *= dims[i];
    return n;
  }
  size_t bytes() const { return static_cast<size_t>(size()) * dtypeBytes(dtype); }
  // The extent of the last axis, and how many rows of that extent there are.
  int64_t cols() const { return rank ? dims[rank - 1] : 1; }
  int64_t rows() const { return size() / (cols() ? cols() : 1); }
};

}  // namespace infinity
