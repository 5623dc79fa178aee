// One bit: drawn from the gap δ = logit₁ − logit₀, or compared with its label. The mathematics of cpu.cc, in float.
#pragma once
#include "cuda/math.cuh"
#include "ops/bits/bits.h"

namespace infinity::cuda {

struct DrawnBit {
  float prob0;  // after top-k and top-p; NaN where the gap is not a number
  uint8_t bit;
};

// `gap` is guided and divided by τ; u is uniform. The less likely value is dropped up to the threshold.
__device__ __forceinline__ DrawnBit drawBit(float gap, float u, bool greedy, float threshold) {
  float prob0 = sigmoid(-gap);
  const float less = fminf(prob0, 1.0f - prob0);
  if (greedy || less <= threshold) prob0 = gap > 0 ? 0.0f : prob0 == prob0 ? 1.0f : prob0;
  return {prob0, static_cast<uint8_t>((greedy ? 0.5f : u) > prob0)};
}

struct BitTerm {
  float loss, slope;  // softplus(−t) + t·ε/2 for t = ±δ signed by the label, and its derivative by δ
  float hit;          // 1 where the larger logit is that of the label; δ = 0 chooses the value 0, as argmax does
};

__device__ __forceinline__ BitTerm bitTerm(float gap, bool bit, float halfSmoothing) {
  const float sign = bit ? 1.0f : -1.0f, t = sign * gap;
  return {softplus(-t) + halfSmoothing * t, sign * (halfSmoothing - sigmoid(-t)), (gap > 0) == bit ? 1.0f : 0.0f};
}

// Bits j … j + 3 of a packed row, j being a multiple of four: that of channel j + k is in place 3 − k.
__device__ __forceinline__ unsigned fourLabels(const uint8_t* packed, int j) {
  return packed[j / 8] >> (4 - j % 8) & 15u;
}

// Eight bits as a packed byte.
__device__ __forceinline__ uint8_t packByte(const uint8_t (&bit)[8]) {
  unsigned value = 0;
#pragma unroll
  for (int k = 0; k < 8; ++k) value |= static_cast<unsigned>(bit[k] != 0) << (7 - k);
  return static_cast<uint8_t>(value);
}

}  // namespace infinity::cuda
