// Sums of floats with what rounding took away kept beside them: as accurate as a sum in double, at float speed.
#pragma once
#include "cuda/reduce.cuh"

namespace infinity::cuda {

// Trivial, so that it may live in shared memory; starts as {0, 0}. Not finite is as of the plain sum.
struct ExactSum {
  float sum, rest;

  __device__ __forceinline__ void add(float x) {
    // Knuth's exact addition: `total` + the last line's term is sum + x without error.
    const float total = sum + x, shown = total - sum;
    rest += (sum - (total - shown)) + (x - shown);
    sum = total;
  }
  __device__ __forceinline__ void add(bf16 x) { add(toFloat(x)); }
  __device__ __forceinline__ void add(const ExactSum& x) {
    add(x.sum);
    rest += x.rest;
  }
  // x², both halves of the product.
  __device__ __forceinline__ void addSquare(float x) {
    const float square = __fmul_rn(x, x);
    add(square);
    rest += __fmaf_rn(x, x, -square);
  }
  __device__ __forceinline__ float value() const { return isfinite(sum) ? sum + rest : sum; }
};

// Every thread gets the sum over its warp.
__device__ __forceinline__ ExactSum warpSum(ExactSum x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const ExactSum other = {__shfl_xor_sync(kAllLanes, x.sum, offset), __shfl_xor_sync(kAllLanes, x.rest, offset)};
    x.add(other);
  }
  return x;
}

// Every thread gets the sum over the block of Threads threads, a multiple of 32. Ends with a barrier.
template <int Threads>
__device__ __forceinline__ ExactSum blockSum(ExactSum x, ExactSum* slots /* Threads / 32, shared */) {
  x = warpSum(x);
  if (Threads == kWarp) return x;
  if (threadIdx.x % kWarp == 0) slots[threadIdx.x / kWarp] = x;
  __syncthreads();
  ExactSum total = slots[0];
#pragma unroll
  for (int w = 1; w < Threads / kWarp; ++w) total.add(slots[w]);
  __syncthreads();
  return total;
}

}  // namespace infinity::cuda
