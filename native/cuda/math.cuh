// Functions of one number, in float: each within a few units in the last place, as the f32 error budget wants them.
#pragma once
#include "cuda/platform.h"

namespace infinity::cuda {

// The quotient is within 2 ulp, and costs a fifth of the rounded one.
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }
// ln(1 + exp(x)) without overflow
__device__ __forceinline__ float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

constexpr float kGeluScale = 0.7978845608028654f;  // √(2/π)
constexpr float kGeluCubic = 0.044715f;
// The tanh form; ½(1 + tanh u) is sigmoid(2u), which keeps its digits where it is small.
__device__ __forceinline__ float gelu(float x) { return x * sigmoid(2.0f * kGeluScale * (x + kGeluCubic * x * x * x)); }
__device__ __forceinline__ float geluSlope(float x) {
  const float s = sigmoid(2.0f * kGeluScale * (x + kGeluCubic * x * x * x));
  return s + x * s * (1.0f - s) * (2.0f * kGeluScale) * (1.0f + 3.0f * kGeluCubic * x * x);
}
__device__ __forceinline__ float silu(float x) { return x * sigmoid(x); }
__device__ __forceinline__ float siluSlope(float x) {
  const float s = sigmoid(x);
  return s * (1.0f + x * (1.0f - s));
}

// 2^x as one instruction: a relative error of 2^-22, and 0 for results below 2^-126.
__device__ __forceinline__ float exp2Approximate(float x) {
#if defined(INFINITY_SIMT)
  return x < -126.0f ? 0.0f : std::exp2(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

}  // namespace infinity::cuda
