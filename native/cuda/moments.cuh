// Means and squared deviations from them, which a product leaves beside its results for a norm: of columns, in runs of
// rows, or of rows, in runs of columns. Every tile that leaves them holds whole runs and adds one up from its first
// element, so which tile it is changes no bit.
#pragma once
#include "cuda/reduce.cuh"

namespace infinity::cuda {

constexpr int kMomentRun = 32;

// Of a run, summed relative to its first element: a mean far from zero costs no digits.
struct RunMoments {
  float origin, sum, square;

  __device__ __forceinline__ void add(float x, bool first) {
    if (first) *this = {x, 0, 0};
    const float d = x - origin;
    sum += d;
    square = fmaf(d, d, square);
  }
  __device__ __forceinline__ float mean(int count = kMomentRun) const { return origin + sum * (1.0f / count); }
  __device__ __forceinline__ float deviation(int count = kMomentRun) const {
    return square - sum * (sum * (1.0f / count));
  }
};

// ---- moments of rows

// Leaves those of a slab of results that begins at (row, column): `at(r, c)` is where four neighbours of it lie, and a
// thread takes a run.
template <int Rows, int Columns, int Threads, class Finish, class At>
__device__ __forceinline__ void leaveRowMoments(const Finish& finish, int thread, int row, int column, int rows,
                                                int columns, const At& at) {
  constexpr int W = 4;
#pragma unroll 1
  for (int i = thread; i < Rows * (Columns / kMomentRun); i += Threads) {
    const int r = i % Rows, c = i / Rows * kMomentRun, count = min(kMomentRun, columns - column - c);
    if (row + r >= rows || count <= 0) continue;
    RunMoments moments = {};
#pragma unroll
    for (int j = 0; j < kMomentRun; j += W) {
      const Pack<float, W> x = loadPack<W>(at(r, c + j));
#pragma unroll
      for (int e = 0; e < W; ++e)
        if (j + e < count) moments.add(x.v[e], j + e == 0);
    }
    finish.rowMoments(row + r, (column + c) / kMomentRun, moments.mean(count), moments.deviation(count));
  }
}

// y = rstd·x + shift makes a row's mean zero and its variance one.
struct RowFact {
  float rstd, shift;
};
// Of the rows of a tile, or of a part of it that begins at `first`.
struct RowFacts {
  const RowFact* facts;
  int first;
  __device__ __forceinline__ const RowFact& operator[](int row) const { return facts[row - first]; }
};

// Rows of `columns` elements by the moments that a product left of them, [rows, runs, 2].
struct MeasuredRows {
  const float* moments;
  int rows, columns;
  float eps;
  bool centred;  // otherwise the norm is by the root mean square, and means stay

  static constexpr int kLanes = 8;  // neighbouring ones, a row's

  // All lanes of the warp take part, and those of a row get the same.
  __device__ __forceinline__ RowFact fact(int row) const {
    const int lane = static_cast<int>(threadIdx.x) % kLanes, runs = (columns + kMomentRun - 1) / kMomentRun;
    const float* from = moments + static_cast<int64_t>(min(row, rows - 1)) * runs * 2;
    float count = 0, mean = 0, deviation = 0;
    const auto merge = [&](float n, float m, float d) {
      const float off = m - mean, all = count + n, share = all > 0 ? n / all : 0.0f;
      mean = fmaf(off, share, mean);
      deviation += fmaf(off * off, count * share, d);
      count = all;
    };
#pragma unroll 8
    for (int i = lane; i < runs; i += kLanes) {
      const Pack<float, 2> run = loadPack<2>(from + 2 * i);
      merge(static_cast<float>(min(kMomentRun, columns - i * kMomentRun)), run.v[0], run.v[1]);
    }
#pragma unroll
    for (int offset = 1; offset < kLanes; offset *= 2) {
      const float n = __shfl_xor_sync(kAllLanes, count, offset), m = __shfl_xor_sync(kAllLanes, mean, offset);
      const float d = __shfl_xor_sync(kAllLanes, deviation, offset);
      merge(n, m, d);
    }
    // Which of two is merged into the other shows in the last bit.
    constexpr int kFirst = 0;
    mean = __shfl_sync(kAllLanes, mean, kFirst, kLanes);
    deviation = __shfl_sync(kAllLanes, deviation, kFirst, kLanes);
    const float n = static_cast<float>(columns);
    const float variance = (centred ? deviation : fmaf(mean * mean, n, deviation)) / n;
    const float rstd = 1.0f / sqrtf(variance + eps);
    return {rstd, centred ? -rstd * mean : 0.0f};
  }

  // Of `Count` rows from `row` on, by `Threads` threads.
  template <int Count, int Threads>
  __device__ __forceinline__ void facts(int thread, int row, RowFact* to) const {
    static_assert(Count * kLanes % Threads == 0, "whole warps take part");
#pragma unroll 4
    for (int r = thread / kLanes; r < Count; r += Threads / kLanes) {
      const RowFact of = fact(row + r);
      if (thread % kLanes == 0) to[r] = of;
    }
  }
};

}  // namespace infinity::cuda
