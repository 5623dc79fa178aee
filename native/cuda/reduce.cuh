// Sums over a warp and over a block. The order depends on the number of threads alone, and every thread gets the
// result.
#pragma once
#include "cuda/element.cuh"

namespace infinity::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

struct Sum {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};
struct Min {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};

// Over groups of `Lanes` neighbouring lanes, a power of two. All 32 lanes of the warp take part.
template <int Lanes = kWarp, class T, class Op = Sum>
__device__ __forceinline__ T warpReduce(T x, Op op = {}) {
#pragma unroll
  for (int offset = Lanes / 2; offset > 0; offset /= 2) x = op(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}

// Over the whole block of Threads threads, a multiple of 32. Ends with a barrier: `slots` may be used again at once.
template <int Threads, class T, class Op = Sum>
__device__ __forceinline__ T blockReduce(T x, T* slots /* Threads / 32, shared */, Op op = {}) {
  constexpr int warps = Threads / kWarp;
  x = warpReduce(x, op);
  if (warps == 1) return x;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  if (lane == 0) slots[warp] = x;
  __syncthreads();
  T total = slots[0];
#pragma unroll
  for (int w = 1; w < warps; ++w) total = op(total, slots[w]);
  __syncthreads();
  return total;
}

}  // namespace infinity::cuda
