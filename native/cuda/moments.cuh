// Means of columns and squared deviations from them, which a product leaves beside its results for a norm.
#pragma once
#include "cuda/platform.h"

namespace infinity::cuda {

// Of a column in a run of kMomentRows rows. Every tile that leaves moments holds whole runs and goes down a run from
// its first row, so which tile it is changes no bit. Summed relative to that row: a mean far from zero costs no digits.
constexpr int kMomentRows = 32;
struct ColumnMoments {
  float origin, sum, square;

  __device__ __forceinline__ void add(float x, bool first) {
    if (first) *this = {x, 0, 0};
    const float d = x - origin;
    sum += d;
    square = fmaf(d, d, square);
  }
  __device__ __forceinline__ float mean() const { return origin + sum * (1.0f / kMomentRows); }
  __device__ __forceinline__ float deviation() const { return square - sum * (sum * (1.0f / kMomentRows)); }
};

}  // namespace infinity::cuda
