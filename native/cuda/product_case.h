// A matrix product as it is described where its way is decided: out(m, n) = epilogue(Σₖ A(m, k)·B(n, k)).
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>

#include "core/tensor.h"

namespace infinity::cuda {

// An operand of the epilogue.
enum class Part : uint8_t { none, f32, bf16 };
inline Part partOf(const TensorView& t) { return !t ? Part::none : t.dtype == DType::bf16 ? Part::bf16 : Part::f32; }

// Where the neighbours of an operand's element lie: along the sum (A at [m, k]) or across it (A at [k, m]).
enum class Lie : uint8_t { alongSum, acrossSum };

// What a decision may depend on: products of equal description go one way.
struct ProductCase {
  const char* op;
  int64_t rows, columns, sums;
  DType a, b, out;
  bool aligned;  // operands and results start, and their rows go on, at multiples of 16 bytes
  Lie lieA = Lie::alongSum, lieB = Lie::alongSum;
  Part bias = Part::none, residual = Part::none, gate = Part::none;
  bool gelu = false;
  bool rowSums = false;  // of A, a result beside the product
  bool norm = false;     // leaves moments for a norm, or carries one out
};

constexpr size_t kAlignedBytes = 16;
// Whether rows of so many elements are `aligned`, or left out.
inline bool rowsAligned(const TensorView& t, int64_t length) {
  return !t || (reinterpret_cast<uintptr_t>(t.data) % kAlignedBytes == 0 &&
                length * dtypeBytes(t.dtype) % kAlignedBytes == 0);
}
// Of a product without epilogue.
inline ProductCase productCase(const char* op, int64_t rows, int64_t columns, int64_t sums, const TensorView& a,
                               const TensorView& b, const TensorView& out) {
  const bool aligned = rowsAligned(a, a.cols()) && rowsAligned(b, b.cols()) && rowsAligned(out, out.cols());
  return {op, rows, columns, sums, a.dtype, b.dtype, out.dtype, aligned};
}

inline bool operator<(const ProductCase& x, const ProductCase& y) {
  const auto tied = [](const ProductCase& c) {
    return std::make_tuple(std::string_view(c.op), c.rows, c.columns, c.sums, c.a, c.b, c.out, c.aligned, c.lieA,
                           c.lieB, c.bias, c.residual, c.gate, c.gelu, c.rowSums, c.norm);
  };
  return tied(x) < tied(y);
}

// "linear 8192x6144x2048, bf16 x bf16 to bf16, bias f32, gelu"
std::string describe(const ProductCase& c);

}  // namespace infinity::cuda
