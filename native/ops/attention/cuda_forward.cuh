// softmax(scale·q·kᵀ + bias)·v in one pass over the keys: a running maximum, and sums that are rescaled when it grows
// (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao, "FlashAttention-2", 2023).
#pragma once
#include "ops/attention/cuda_ranges.cuh"
#include "ops/attention/cuda_together.cuh"

namespace infinity::cuda {
namespace {

template <class T>
struct AttentionForward {
  const T *q, *k, *v, *bias;
  T* o;
  float* lse;  // natural, 0 for a query without keys
  AttentionShape shape;
  KeyRanges ranges;
  HeadLayout layout;
  float scale;
  uint32_t* fault;
};

// The running softmax of a lane's rows; `total` holds the lane's own columns until the end.
template <class G>
struct Softmax {
  using T = typename G::T;
  float largest[G::bands][2], total[G::bands][2];

  __device__ __forceinline__ Softmax() {
#pragma unroll
    for (int i = 0; i < G::bands * 2; ++i) largest[i / 2][i % 2] = -INFINITY, total[i / 2][i % 2] = 0;
  }

  // Scores of the keys from `key` on become weights; sums keep pace with the maximum.
  __device__ __forceinline__ void take(typename G::Scores& scores, int key, const RowGroup& group, const KeyRange* rows,
                                       typename G::Sums& sums) {
    if (key + G::columns > group.seenByAll) hide(scores, key, group, rows);
    float factor[G::bands][2];
#pragma unroll
    for (int i = 0; i < G::bands * 2; ++i) {
      const int band = i / 2, half = i % 2;
      float most = -INFINITY;
#pragma unroll
      for (int j = 0; j < G::columns / 8; ++j)
        most = fmaxf(most, fmaxf(scores[band][j][half * 2], scores[band][j][half * 2 + 1]));
      most = warpReduce<4>(most, Max{});
      const float now = fmaxf(largest[band][half], most), base = now == -INFINITY ? 0.0f : now;
      factor[band][half] = Exponent<T>::of(largest[band][half] - base);
      largest[band][half] = now;
      float sum = 0;
#pragma unroll
      for (int j = 0; j < G::columns / 8; ++j)
#pragma unroll
        for (int e = half * 2; e < half * 2 + 2; ++e) {
          scores[band][j][e] = Exponent<T>::of(scores[band][j][e] - base);
          sum += scores[band][j][e];
        }
      total[band][half] = total[band][half] * factor[band][half] + sum;
    }
    // Always, although the maximum seldom grows: a branch around it would cost registers.
#pragma unroll
    for (int band = 0; band < G::bands; ++band)
#pragma unroll
      for (int d = 0; d < G::width / 8; ++d)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[band][d][e] *= factor[band][e / 2];
  }

 private:
  static __device__ __forceinline__ void hide(typename G::Scores& scores, int key, const RowGroup& group,
                                              const KeyRange* rows) {
#pragma unroll
    for (int i = 0; i < G::bands * 2; ++i) {
      const int band = i / 2, half = i % 2, stop = group.stop(rows[band * 16 + half * 8 + laneRow()]);
#pragma unroll
      for (int j = 0; j < G::columns / 8; ++j)
#pragma unroll
        for (int column = 0; column < 2; ++column)
          if (key + j * 8 + laneColumn() + column >= stop) scores[band][j][half * 2 + column] = -INFINITY;
    }
  }
};

template <class G, bool kBias>
__global__ void __launch_bounds__(G::threads, 1) attentionForward(const AttentionForward<typename G::T> f) {
  using T = typename G::T;
  using Part = typename G::Part;
  __shared__ int slots[G::warps];
  __shared__ KeyRange rows[G::rows];
  T* const queries = dynamicShared<T>();
  T* const stages = queries + G::rowsElements;        // twice keys and values
  T* const biases = stages + 4 * G::columnsElements;  // twice; or the scores that warps exchange

  const AttentionShape& s = f.shape;
  // Later queries see more keys where a schedule is causal: they go first.
  const int64_t tiles = ceilDiv(s.queries, G::rows), tile = tiles - 1 - blockIdx.x % tiles, head = blockIdx.x / tiles;
  const int64_t b = head / s.heads, h = head % s.heads, first = tile * G::rows;
  const int64_t firstOfWarp = first + G::ownRow();
  const T *k = f.k + s.key(b, h), *v = f.v + s.key(b, h);
  const auto fetch = [&](int stage, int key, int end) {
    T* to = stages + stage * 2 * G::columnsElements;
    loadRows<G, G::columns>(to, k + key * s.channels, f.layout, end - key);
    loadRows<G, G::columns>(to + G::columnsElements, v + key * s.channels, f.layout, end - key);
    commitCopies();
    if constexpr (kBias)
      loadBias<G, G::rows, G::columns>(biases + stage * G::biasElements,
                                       f.bias + (h * s.queries + first) * s.keys + key, s.keys, s.queries - first,
                                       s.keys - key);
  };

  loadRows<G, G::rows>(queries, f.q + s.query(b, h, first), f.layout, s.queries - first);
  loadRanges<G>(rows, f.ranges, b, first, s.queries, f.fault);
  __syncthreads();
  T* const own = queries + G::ownRow() * G::stride;
  Softmax<Part> softmax;
  typename Part::Sums sums = {};
  for (RowGroup group = nextGroup<G>(rows, -1, slots); group.end > 0; group = nextGroup<G>(rows, group.begin, slots)) {
    int stage = 0;
    fetch(stage, group.begin, group.end);
    for (int key = group.begin; key < group.end; key += G::columns, stage ^= 1) {
      waitCopies<0>();
      __syncthreads();
      if (key + G::columns < group.end) fetch(stage ^ 1, key + G::columns, group.end);
      if (key >= group.seenByOne) continue;
      const T* tileKeys = stages + stage * 2 * G::columnsElements;
      typename G::Scores scores;
      if constexpr (G::together)
        multiplyTransposedTogether<G>(scores, queries, tileKeys, reinterpret_cast<float*>(biases));
      else
        multiplyTransposed<G>(scores, own, tileKeys);
      scaleScores<G>(scores, f.scale * Exponent<T>::perNatural);
      if constexpr (kBias) addBias<G, false>(scores, biases + stage * G::biasElements);
      softmax.take(scores, key, group, rows + G::ownRow(), sums);
      multiplyAdd<Part>(sums, scores, tileKeys + G::columnsElements + G::ownColumn());
    }
  }
  waitCopies<0>();
  __syncthreads();

  float inverse[G::bands][2];
#pragma unroll
  for (int i = 0; i < G::bands * 2; ++i) {
    const int band = i / 2, half = i % 2;
    const float total = warpReduce<4>(softmax.total[band][half]);
    inverse[band][half] = total == 0 ? 0.0f : 1.0f / total;
    const int64_t query = firstOfWarp + band * 16 + half * 8 + laneRow();
    if (query < s.queries && laneColumn() == 0 && G::ownColumn() == 0)
      f.lse[head * s.queries + query] =
          total == 0 ? 0.0f : softmax.largest[band][half] * (1.0f / Exponent<T>::perNatural) + logf(total);
  }
  const HeadLayout layout = {f.layout.channels, f.layout.width - G::ownColumn(), f.layout.aligned};
  storeRows<Part>(sums, inverse, own + G::ownColumn(), f.o + s.query(b, h, firstOfWarp) + G::ownColumn(), layout,
                  s.queries - firstOfWarp);
}

}  // namespace
}  // namespace infinity::cuda
