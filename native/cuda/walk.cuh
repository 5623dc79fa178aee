// From the number of an element to where it is in tensors that walk the same index space with strides of their own.
#pragma once
#include "cuda/kernel.h"

namespace infinity::cuda {

// A divisor that is known at launch. Of 32-bit numbers below 2^31 with one multiplication (Granlund and Montgomery,
// "Division by invariant integers using multiplication", PLDI 1994).
template <class I>
struct Divisor;

template <>
struct Divisor<uint32_t> {
  uint32_t value = 1, factor = 1, shift = 0;

  Divisor() = default;
  explicit Divisor(int64_t by) : value(static_cast<uint32_t>(by)) {
    while ((uint64_t{1} << shift) < value) ++shift;
    factor = static_cast<uint32_t>(((uint64_t{1} << 32) * ((uint64_t{1} << shift) - value)) / value + 1);
  }
  __device__ __forceinline__ uint32_t divide(uint32_t n) const { return (__umulhi(factor, n) + n) >> shift; }
};

template <>
struct Divisor<uint64_t> {
  uint64_t value = 1;

  Divisor() = default;
  explicit Divisor(int64_t by) : value(static_cast<uint64_t>(by)) {}
  __device__ __forceinline__ uint64_t divide(uint64_t n) const { return n / value; }
};

// Calls f(I{}) with the type that counts to n: 32 bits where they do.
template <class F>
void withIndex(int64_t n, const F& f) {
  if (n < int64_t{1} << 31)
    f(uint32_t{});
  else
    f(uint64_t{});
}

// N tensors over one row-major index space. A kernel takes it as `const __grid_constant__`, so that it is read where
// the arguments are.
template <class I, int N, class Offset = I>
struct Walk {
  int rank = 0;
  Divisor<I> extent[kMaxRank];
  Offset stride[N][kMaxRank] = {};

  // Host: one more axis, faster than those before.
  template <class... S>
  void add(int64_t n, S... strides) {
    static_assert(sizeof...(S) == N, "a stride for each tensor");
    const int64_t given[N] = {strides...};
    extent[rank] = Divisor<I>(n);
    for (int k = 0; k < N; ++k) stride[k][rank] = static_cast<Offset>(given[k]);
    ++rank;
  }

  // Offsets of element i.
  __device__ __forceinline__ void seek(I i, Offset (&at)[N]) const {
#pragma unroll
    for (int k = 0; k < N; ++k) at[k] = 0;
    for (int axis = rank - 1; axis >= 0; --axis) {
      const I rest = axis ? extent[axis].divide(i) : 0, index = i - rest * extent[axis].value;
#pragma unroll
      for (int k = 0; k < N; ++k) at[k] += static_cast<Offset>(index) * stride[k][axis];
      i = rest;
    }
  }
};

}  // namespace infinity::cuda
