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
  static constexpr int kHeld = 8;   // runs that a lane reads at a time: 2048 columns a row

  // Of `Count` rows from `row` on, by `Threads` threads, whole warps. Reads of several rows are on their way at a time.
  template <int Count, int Threads>
  __device__ __forceinline__ void facts(int thread, int row, RowFact* to) const {
    constexpr int kAtOnce = Threads / kLanes, kEach = Count / kAtOnce, kTogether = kEach < 4 ? kEach : 4;
    static_assert(Count % kAtOnce == 0 && kEach % kTogether == 0, "all threads take part");
    const int lane = thread % kLanes, runs = (columns + kMomentRun - 1) / kMomentRun;
#pragma unroll 1
    for (int i = thread / kLanes; i < Count; i += kAtOnce * kTogether) {
      const float* from[kTogether];
      LaneRuns of[kTogether] = {};
#pragma unroll
      for (int j = 0; j < kTogether; ++j)
        from[j] = moments + static_cast<int64_t>(min(row + i + j * kAtOnce, rows - 1)) * runs * 2;
#pragma unroll 1
      for (int first = lane; first < runs; first += kHeld * kLanes) {
        Pack<float, 2> run[kTogether][kHeld];
        float counts[kHeld];
#pragma unroll
        for (int k = 0; k < kHeld; ++k) {
          const int at = first + k * kLanes;
          counts[k] = static_cast<float>(max(0, min(kMomentRun, columns - at * kMomentRun)));
#pragma unroll
          for (int j = 0; j < kTogether; ++j) run[j][k] = at < runs ? loadPack<2>(from[j] + 2 * at) : Pack<float, 2>{};
        }
#pragma unroll
        for (int j = 0; j < kTogether; ++j) of[j].add(run[j], counts);
      }
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const RowFact fact = factOf(of[j]);
        if (lane == 0) to[i + j * kAtOnce] = fact;
      }
    }
  }

 private:
  // A lane's runs of a row.
  struct LaneRuns {
    float count, mean, deviation;

    __device__ __forceinline__ void add(const Pack<float, 2> (&run)[kHeld], const float (&counts)[kHeld]) {
      float n = 0, sum = 0, around = 0;
#pragma unroll
      for (int k = 0; k < kHeld; ++k) {
        n += counts[k];
        sum = fmaf(counts[k], run[k].v[0], sum);
      }
      const float middle = sum / n;
#pragma unroll
      for (int k = 0; k < kHeld; ++k) {
        const float off = run[k].v[0] - middle;
        around += fmaf(counts[k] * off, off, run[k].v[1]);
      }
      const float off = middle - mean, share = n / (count + n);
      mean = fmaf(off, share, mean);
      deviation += fmaf(off * off, count * share, around);
      count += n;
    }
  };

  // The lanes of the row get the same.
  __device__ __forceinline__ RowFact factOf(const LaneRuns& of) const {
    const float share = 1.0f / static_cast<float>(columns);
    const float mean = warpReduce<kLanes>(of.count * of.mean) * share, off = of.mean - mean;
    const float spread = warpReduce<kLanes>(fmaf(of.count * off, off, of.deviation)) * share;
    const float rstd = 1.0f / sqrtf((centred ? spread : fmaf(mean, mean, spread)) + eps);
    return {rstd, centred ? -rstd * mean : 0.0f};
  }
};

}  // namespace infinity::cuda
