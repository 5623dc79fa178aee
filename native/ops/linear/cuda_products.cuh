// What the products of linear layers have in common: the types of their operands, and how a sum is finished.
#pragma once
#include "cuda/gemm.cuh"
#include "cuda/math.cuh"

namespace infinity::cuda {
namespace {

// What happens to a finished sum, in the order of the definition: bias, GELU, gate, residual; each may be missing.
struct LinearEpilogue {
  static constexpr bool kRowSums = false, kMoments = false, kRowMoments = false, kRowFacts = false;
  Floats y, bias, residual, gate;
  int columns, rowsPerGate;
  bool gelu, whole;

  __device__ __forceinline__ const LinearEpilogue& select(const BlockWork&) const { return *this; }
  template <int W>
  __device__ __forceinline__ void operator()(int row, int column, float (&v)[W]) const {
    const int n = columns - column;
    const int64_t at = static_cast<int64_t>(row) * columns + column;
    float by[W];
    if (bias) {
      bias.read(column, whole, n, by);
#pragma unroll
      for (int i = 0; i < W; ++i) v[i] += by[i];
    }
    if (gelu) {
#pragma unroll
      for (int i = 0; i < W; ++i) v[i] = cuda::gelu(v[i]);
    }
    if (residual) {
      float onto[W];
      residual.read(at, whole, n, onto);
      if (gate) gate.read(static_cast<int64_t>(row / rowsPerGate) * columns + column, whole, n, by);
#pragma unroll
      for (int i = 0; i < W; ++i) v[i] = gate ? fmaf(by[i], v[i], onto[i]) : onto[i] + v[i];
    }
    y.write(at, whole, n, v);
  }
};

template <class A, class B>
bool storedAs(const TensorView& a, const TensorView& b) {
  const auto is = [](const TensorView& t, bool half) { return t.dtype == (half ? DType::bf16 : DType::f32); };
  return is(a, std::is_same<A, bf16>::value) && is(b, std::is_same<B, bf16>::value);
}
bool isF32OrBf16(const TensorView& t) { return !t || t.dtype == DType::f32 || t.dtype == DType::bf16; }

// Calls f(A{}, B{}) with the types that the operands of a product are stored as. f32 products take bf16 weights too.
template <class F>
void withOperands(const TensorView& a, const TensorView& b, const F& f) {
  if (storedAs<bf16, bf16>(a, b))
    f(bf16{}, bf16{});
  else if (storedAs<float, bf16>(a, b))
    f(float{}, bf16{});
  else
    f(float{}, float{});
}
bool areOperands(const TensorView& a, const TensorView& b) {
  return storedAs<bf16, bf16>(a, b) || storedAs<float, bf16>(a, b) || storedAs<float, float>(a, b);
}

}  // namespace
}  // namespace infinity::cuda
