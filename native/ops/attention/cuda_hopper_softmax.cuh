// The softmax of warpgroups. A lane has two rows of its warp's sixteen: laneRow() and the eighth below it.
//
// As a rule the largest score so far is the base of all exponents, and sums are rescaled when it grows. Where keys have
// length 1, a row whose scaled query is not longer than kLargestBound needs no base: no score is larger, so weights lie
// between exp(-44) = 2^-63.5 and exp(44) = 2^63.5, and 2^24 of them, times values up to 2^39, have a sum. A row's way
// is its query's alone: a warp that looks for maxima takes 0 as the base of such rows.
//
// Without a base the largest weight is not exactly 1, and rounded to bf16 it is another. Sums of values are therefore
// divided by the total of the rounded weights, those that were multiplied; the log-sum-exp has that of the exact ones.
#pragma once
#include "cuda/hopper.cuh"
#include "ops/attention/cuda_tile.cuh"

namespace infinity::cuda {
namespace {

constexpr float kLargestBound = 44.0f;  // natural

// What a row's weights are in units of, and their totals.
struct RowTotals {
  float largest, exact, rounded;

  __device__ __forceinline__ float base() const { return largest == -INFINITY ? 0.0f : largest; }
  __device__ __forceinline__ float inverse() const { return rounded == 0 ? 0.0f : 1.0f / rounded; }
  __device__ __forceinline__ float logSumExp() const {
    return exact == 0 ? 0.0f : largest * (1.0f / Exponent<bf16>::perNatural) + logf(exact);
  }
};

// The totals of a later piece are added to those of the pieces before it; sums follow by add(). A piece in which a row
// has no keys changes nothing.
struct PieceFactors {
  float before, piece;
  __device__ __forceinline__ float add(float sumBefore, float sumOfPiece) const {
    return fmaf(sumOfPiece, piece, sumBefore * before);
  }
};
__device__ __forceinline__ PieceFactors addPiece(RowTotals& all, const RowTotals& piece) {
  const RowTotals now = {fmaxf(all.largest, piece.largest), 0, 0};
  const PieceFactors f = {exp2Approximate(all.largest - now.base()), exp2Approximate(piece.largest - now.base())};
  all = {now.largest, f.add(all.exact, piece.exact), f.add(all.rounded, piece.rounded)};
  return f;
}

// Bits for the lane's two rows, of a warp's rows from `row` of a tile of queries on: whether they need no base.
template <class G>
__device__ __forceinline__ uint32_t boundedRows(const unsigned char* queries, int row, float perScore) {
  constexpr int kChunk = 16 / sizeof(bf16), kChunks = kSwizzleBytes / 16;
  constexpr float kLargest = kLargestBound * Exponent<bf16>::perNatural;
  uint32_t bounded = 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int at = row + half * 8 + laneRow();
    float squares = 0;
#pragma unroll 1
    for (int chunk = laneIndex() % 4; chunk < G::kWidth / kChunk; chunk += 4) {
      const int swizzled = (chunk % kChunks) ^ (at % 8);
      const auto x = loadPack<kChunk>(
          reinterpret_cast<const bf16*>(queries + chunk / kChunks * G::kBoxBytes + at * kSwizzleBytes + swizzled * 16));
#pragma unroll
      for (int i = 0; i < kChunk; ++i) squares = fmaf(toFloat(x.v[i]), toFloat(x.v[i]), squares);
    }
    if (warpReduce<4>(squares) * perScore * perScore <= kLargest * kLargest) bounded |= 1u << half;
  }
  return bounded;
}

// Of one run of keys.
template <class G>
struct WarpgroupSoftmax {
  float largest[2], exact[2], rounded[2];
  uint32_t bounded;
  bool free;  // every row of the warp is bounded

  using Scores = float[G::kKeys / 2];
  using Weights = uint32_t[G::kKeys / 16][4];

  __device__ __forceinline__ void begin(uint32_t boundedOfLane) {
    bounded = boundedOfLane;
    free = __all_sync(kAllLanes, bounded == 3);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      largest[half] = bounded >> half & 1 ? 0.0f : -INFINITY;
      exact[half] = rounded[half] = 0;
    }
  }

  // Scores of the keys from `key` on become weights; the factors of what was summed before.
  __device__ __forceinline__ void weigh(Scores& scores, float perScore, float (&factor)[2]) {
    if (!free) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float most = -INFINITY;
#pragma unroll
        for (int i = half * 2; i < G::kKeys / 2; i += 4) most = fmaxf(most, fmaxf(scores[i], scores[i + 1]));
        most = warpReduce<4>(most, Max{});
        const float now = bounded >> half & 1 ? 0.0f : fmaxf(largest[half], most * perScore);
        factor[half] = exp2Approximate(largest[half] - (now == -INFINITY ? 0.0f : now));
        largest[half] = now;
        exact[half] *= factor[half];
        rounded[half] *= factor[half];
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float base = largest[half] == -INFINITY ? 0.0f : largest[half];
      float sum = 0;
#pragma unroll
      for (int i = half * 2; i < G::kKeys / 2; i += 4)
#pragma unroll
        for (int e = i; e < i + 2; ++e) {
          scores[e] = exp2Approximate(fmaf(scores[e], perScore, -base));
          sum += scores[e];
        }
      exact[half] += sum;
    }
  }
  template <int N>
  __device__ __forceinline__ void rescale(float (&sums)[N], const float (&factor)[2]) const {
    if (free) return;
#pragma unroll
    for (int i = 0; i < N; ++i) sums[i] *= factor[i / 2 % 2];
  }
  // Weights as the next product takes them.
  __device__ __forceinline__ void pack(const Scores& scores, Weights& weights) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = 0;
#pragma unroll
      for (int j = 0; j < G::kKeys / 8; ++j) {
        const uint32_t word = packBf16(scores[j * 4 + half * 2], scores[j * 4 + half * 2 + 1]);
        weights[j / 2][j % 2 * 2 + half] = word;
        sum += lowerBf16(word);
        sum += upperBf16(word);
      }
      rounded[half] += sum;
    }
  }

  // Weights of keys that a row does not see are none.
  static __device__ __forceinline__ void hide(Scores& scores, int key, const int (&stop)[2]) {
#pragma unroll
    for (int i = 0; i < G::kKeys / 2; ++i)
      if (key + i / 4 * 8 + laneColumn() + i % 2 >= stop[i / 2 % 2]) scores[i] = -INFINITY;
  }

  // Over the four lanes of a row.
  __device__ __forceinline__ RowTotals totals(int half) const {
    return {largest[half], warpReduce<4>(exact[half]), warpReduce<4>(rounded[half])};
  }
};

}  // namespace
}  // namespace infinity::cuda
