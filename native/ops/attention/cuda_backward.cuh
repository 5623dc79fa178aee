// Gradients of attention from the saved log-sum-exps, in passes of which each owns what it writes: of q by tiles of
// queries, of k and v by tiles of keys, of the bias by tiles of both. Every sum has one order.
#pragma once
#include "ops/attention/cuda_ranges.cuh"

namespace infinity::cuda {
namespace {

template <class T>
struct AttentionBackward {
  const T *go, *q, *k, *v, *bias;
  const float* lse;
  const float* inner;  // go · o of every row [B, H, Lq]
  T *gq, *gk, *gv, *gbias;
  AttentionShape shape;
  KeyRanges ranges;
  HeadLayout layout;
  float scale;
};

// inner[b, h, i] = Σ_d go · o, by sixteen lanes a row.
constexpr int kInnerLanes = 16;
template <class T>
__global__ void attentionInner(const T* go, const T* o, AttentionShape s, HeadLayout layout, float* inner) {
  constexpr int kPack = kPerPack<T>;
  const int64_t all = s.batch * s.queries * s.heads, step = int64_t{gridDim.x} * blockDim.x / kInnerLanes;
  const int lane = laneIndex() % kInnerLanes;
  const int64_t mine = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kInnerLanes;
  for (int64_t warpFirst = mine - laneIndex() / kInnerLanes; warpFirst < all; warpFirst += step) {
    const int64_t row = warpFirst + laneIndex() / kInnerLanes;
    float sum = 0;
    if (row < all && layout.aligned) {
      for (int d = lane * kPack; d < layout.width; d += kInnerLanes * kPack) {
        const auto x = loadPack<kPack>(go + row * layout.width + d), y = loadPack<kPack>(o + row * layout.width + d);
#pragma unroll
        for (int i = 0; i < kPack; ++i) sum = fmaf(toFloat(x.v[i]), toFloat(y.v[i]), sum);
      }
    } else if (row < all) {
      for (int d = lane; d < layout.width; d += kInnerLanes)
        sum = fmaf(toFloat(go[row * layout.width + d]), toFloat(o[row * layout.width + d]), sum);
    }
    sum = warpReduce<kInnerLanes>(sum);
    const int64_t query = row / s.heads;
    if (row < all && lane == 0)
      inner[(query / s.queries * s.heads + row % s.heads) * s.queries + query % s.queries] = sum;
  }
}

// What a row or column of scores needs of its query.
struct QueryStatistics {
  KeyRange keys;
  float lse, inner;  // lse in the units of Exponent
};
template <class T>
__device__ __forceinline__ QueryStatistics statisticsOf(const AttentionBackward<T>& f, int64_t b, int64_t h,
                                                        int64_t query) {
  const int64_t at = (b * f.shape.heads + h) * f.shape.queries + query;
  const bool exists = query < f.shape.queries;
  return {rangeOf(f.ranges, b, query, f.shape.queries), exists ? f.lse[at] * Exponent<T>::perNatural : 0.0f,
          exists ? f.inner[at] : 0.0f};
}

template <class T>
__device__ __forceinline__ float probabilityOf(float score, const QueryStatistics& query, bool seen) {
  return seen ? Exponent<T>::of(score - query.lse) : 0.0f;
}
// The gradient of a score from its probability and go · v.
__device__ __forceinline__ float scoreGradient(float probability, float product, const QueryStatistics& query,
                                               bool seen) {
  return seen ? probability * (product - query.inner) : 0.0f;
}

template <class G>
__device__ __forceinline__ void fillFactor(float (&factor)[G::bands][2], float value) {
#pragma unroll
  for (int i = 0; i < G::bands * 2; ++i) factor[i / 2][i % 2] = value;
}

// For tiles of queries.
template <class G, bool kBias>
__global__ void __launch_bounds__(G::threads, 1) attentionQueryGradient(const AttentionBackward<typename G::T> f) {
  using T = typename G::T;
  __shared__ int slots[G::warps];
  __shared__ KeyRange rows[G::rows];
  T* const queries = dynamicShared<T>();
  T* const gradients = queries + G::rowsElements;     // of the output
  T* const stages = gradients + G::rowsElements;      // twice keys and values
  T* const biases = stages + 4 * G::columnsElements;  // twice

  const AttentionShape& s = f.shape;
  const int64_t tiles = ceilDiv(s.queries, G::rows), tile = tiles - 1 - blockIdx.x % tiles, head = blockIdx.x / tiles;
  const int64_t b = head / s.heads, h = head % s.heads, first = tile * G::rows;
  const int64_t firstOfWarp = first + warpIndex() * G::bandRows;
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
  loadRows<G, G::rows>(gradients, f.go + s.query(b, h, first), f.layout, s.queries - first);
  loadRanges<G>(rows, f.ranges, b, first, s.queries);
  QueryStatistics statistics[G::bands][2];
#pragma unroll
  for (int i = 0; i < G::bands * 2; ++i)
    statistics[i / 2][i % 2] = statisticsOf(f, b, h, firstOfWarp + i / 2 * 16 + i % 2 * 8 + laneRow());
  __syncthreads();
  const int ownRows = warpIndex() * G::bandRows * G::stride;
  typename G::Sums sums = {};
  for (RowGroup group = nextGroup<G>(rows, -1, slots); group.end > 0; group = nextGroup<G>(rows, group.begin, slots)) {
    int stage = 0;
    fetch(stage, group.begin, group.end);
    for (int key = group.begin; key < group.end; key += G::columns, stage ^= 1) {
      waitCopies<0>();
      __syncthreads();
      if (key + G::columns < group.end) fetch(stage ^ 1, key + G::columns, group.end);
      if (key >= group.seenByOne) continue;
      const T* tileKeys = stages + stage * 2 * G::columnsElements;
      typename G::Scores scores, scoreGradients;
      multiplyTransposed<G>(scores, queries + ownRows, tileKeys);
      multiplyTransposed<G>(scoreGradients, gradients + ownRows, tileKeys + G::columnsElements);
      scaleScores<G>(scores, f.scale * Exponent<T>::perNatural);
      if constexpr (kBias) addBias<G, false>(scores, biases + stage * G::biasElements);
#pragma unroll
      for (int i = 0; i < G::bands * 2; ++i) {
        const int band = i / 2, half = i % 2;
        const int stop = group.stop(rows[warpIndex() * G::bandRows + band * 16 + half * 8 + laneRow()]);
        const QueryStatistics& query = statistics[band][half];
#pragma unroll
        for (int j = 0; j < G::columns / 8; ++j)
#pragma unroll
          for (int e = half * 2; e < half * 2 + 2; ++e) {
            const bool seen = key + j * 8 + laneColumn() + e % 2 < stop;
            const float probability = probabilityOf<T>(scores[band][j][e], query, seen);
            scoreGradients[band][j][e] = scoreGradient(probability, scoreGradients[band][j][e], query, seen);
          }
      }
      multiplyAdd<G>(sums, scoreGradients, tileKeys);
    }
  }
  waitCopies<0>();
  __syncthreads();
  float factor[G::bands][2];
  fillFactor<G>(factor, f.scale);
  storeRows<G>(sums, factor, queries + ownRows, f.gq + s.query(b, h, firstOfWarp), f.layout, s.queries - firstOfWarp);
}

// The first tile of queries from `query` on of which one sees keys in [first, end); the number of queries when there is
// none. All threads take part.
template <class G>
__device__ __forceinline__ int64_t tileThatSees(const KeyRanges& ranges, int64_t b, int64_t query, int64_t queries,
                                                int64_t first, int64_t end) {
  static_assert(G::threads >= G::columns, "a thread a query");
  for (; query < queries; query += G::columns) {
    bool sees = false;
    if (static_cast<int>(threadIdx.x) < G::columns) {
      const KeyRange keys = rangeOf(ranges, b, query + threadIdx.x, queries);
      sees = !keys.empty() && keys.start < end && keys.end > first;
    }
    if (__syncthreads_or(sees)) return query;
  }
  return queries;
}

// For tiles of keys: of k, of v, or of both where the registers hold both.
template <class G, bool kBias, bool kOfKeys, bool kOfValues>
__global__ void __launch_bounds__(G::threads, 1) attentionKeyGradient(const AttentionBackward<typename G::T> f) {
  using T = typename G::T;
  __shared__ QueryStatistics statistics[2][G::columns];
  T* const keys = dynamicShared<T>();
  T* const values = keys + G::rowsElements;
  T* const stages = values + G::rowsElements;         // twice queries and gradients of the output
  T* const biases = stages + 4 * G::columnsElements;  // twice, queries by keys

  const AttentionShape& s = f.shape;
  const int64_t tiles = ceilDiv(s.keys, G::rows), first = blockIdx.x % tiles * G::rows, head = blockIdx.x / tiles;
  // Samples that share their keys are summed in their order.
  const int64_t h = head % s.heads, firstSample = head / s.heads, samples = s.sharedKeys ? s.batch : 1;
  const int64_t firstOfWarp = first + warpIndex() * G::bandRows, rowsAt = s.key(firstSample, h) + first * s.channels;
  const int ownRows = warpIndex() * G::bandRows * G::stride;
  loadRows<G, G::rows>(keys, f.k + rowsAt, f.layout, s.keys - first);
  if (kOfKeys) loadRows<G, G::rows>(values, f.v + rowsAt, f.layout, s.keys - first);

  typename G::Sums ofKeys = {}, ofValues = {};
  int stage = 0;
  for (int64_t b = firstSample; b < firstSample + samples; ++b) {
    const auto fetch = [&](int to, int64_t query) {
      T* at = stages + to * 2 * G::columnsElements;
      loadRows<G, G::columns>(at, f.q + s.query(b, h, query), f.layout, s.queries - query);
      loadRows<G, G::columns>(at + G::columnsElements, f.go + s.query(b, h, query), f.layout, s.queries - query);
      commitCopies();
      if constexpr (kBias)
        loadBias<G, G::columns, G::rows>(biases + to * G::biasElements,
                                         f.bias + (h * s.queries + query) * s.keys + first, s.keys, s.queries - query,
                                         s.keys - first);
      if (static_cast<int>(threadIdx.x) < G::columns)
        statistics[to][threadIdx.x] = statisticsOf(f, b, h, query + threadIdx.x);
    };
    int64_t next = tileThatSees<G>(f.ranges, b, 0, s.queries, first, first + G::rows);
    if (next < s.queries) fetch(stage, next);
    while (next < s.queries) {
      waitCopies<0>();
      __syncthreads();
      const int64_t query = next;
      next = tileThatSees<G>(f.ranges, b, query + G::columns, s.queries, first, first + G::rows);
      if (next < s.queries) fetch(stage ^ 1, next);

      const T* tileQueries = stages + stage * 2 * G::columnsElements;
      const T* tileGradients = tileQueries + G::columnsElements;
      typename G::Scores scores, scoreGradients;
      multiplyTransposed<G>(scores, keys + ownRows, tileQueries);
      if (kOfKeys) multiplyTransposed<G>(scoreGradients, values + ownRows, tileGradients);
      scaleScores<G>(scores, f.scale * Exponent<T>::perNatural);
      if constexpr (kBias) addBias<G, true>(scores, biases + stage * G::biasElements);
#pragma unroll
      for (int j = 0; j < G::columns / 8; ++j)
#pragma unroll
        for (int column = 0; column < 2; ++column) {
          const QueryStatistics ofQuery = statistics[stage][j * 8 + laneColumn() + column];
#pragma unroll
          for (int band = 0; band < G::bands; ++band)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              const int e = half * 2 + column;
              const bool seen = ofQuery.keys.has(static_cast<int>(firstOfWarp) + band * 16 + half * 8 + laneRow());
              scores[band][j][e] = probabilityOf<T>(scores[band][j][e], ofQuery, seen);
              if (kOfKeys)
                scoreGradients[band][j][e] =
                    scoreGradient(scores[band][j][e], scoreGradients[band][j][e], ofQuery, seen);
            }
        }
      if (kOfValues) multiplyAdd<G>(ofValues, scores, tileGradients);
      if (kOfKeys) multiplyAdd<G>(ofKeys, scoreGradients, tileQueries);
      stage ^= 1;
    }
  }
  waitCopies<0>();
  __syncthreads();
  const int64_t to = s.key(firstSample, h) + firstOfWarp * s.channels;
  float factor[G::bands][2];
  if (kOfKeys) {
    fillFactor<G>(factor, f.scale);
    storeRows<G>(ofKeys, factor, keys + ownRows, f.gk + to, f.layout, s.keys - firstOfWarp);
  }
  if (kOfValues) {
    fillFactor<G>(factor, 1.0f);
    storeRows<G>(ofValues, factor, values + ownRows, f.gv + to, f.layout, s.keys - firstOfWarp);
  }
}

// For tiles of queries and keys, all samples in their order.
template <class G>
__global__ void __launch_bounds__(G::threads, 1) attentionBiasGradient(const AttentionBackward<typename G::T> f) {
  using T = typename G::T;
  T* const queries = dynamicShared<T>();
  T* const gradients = queries + G::rowsElements;
  T* const keys = gradients + G::rowsElements;
  T* const values = keys + G::columnsElements;
  T* const bias = values + G::columnsElements;

  const AttentionShape& s = f.shape;
  const int64_t across = ceilDiv(s.keys, G::columns), down = ceilDiv(s.queries, G::rows);
  const int64_t firstKey = blockIdx.x % across * G::columns, first = blockIdx.x / across % down * G::rows;
  const int64_t h = blockIdx.x / (across * down), firstOfWarp = first + warpIndex() * G::bandRows;
  const int ownRows = warpIndex() * G::bandRows * G::stride;
  typename G::Scores sums = {};
  loadBias<G, G::rows, G::columns>(bias, f.bias + (h * s.queries + first) * s.keys + firstKey, s.keys,
                                   s.queries - first, s.keys - firstKey);
  for (int64_t b = 0; b < s.batch; ++b) {
    const int64_t keysAt = s.key(b, h) + firstKey * s.channels;
    loadRows<G, G::rows>(queries, f.q + s.query(b, h, first), f.layout, s.queries - first);
    loadRows<G, G::rows>(gradients, f.go + s.query(b, h, first), f.layout, s.queries - first);
    loadRows<G, G::columns>(keys, f.k + keysAt, f.layout, s.keys - firstKey);
    loadRows<G, G::columns>(values, f.v + keysAt, f.layout, s.keys - firstKey);
    commitCopies();
    waitCopies<0>();
    __syncthreads();
    typename G::Scores scores, scoreGradients;
    multiplyTransposed<G>(scores, queries + ownRows, keys);
    scaleScores<G>(scores, f.scale * Exponent<T>::perNatural);
    addBias<G, false>(scores, bias);
    multiplyTransposed<G>(scoreGradients, gradients + ownRows, values);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < G::bands * 2; ++i) {
      const int band = i / 2, half = i % 2;
      const QueryStatistics query = statisticsOf(f, b, h, firstOfWarp + band * 16 + half * 8 + laneRow());
#pragma unroll
      for (int j = 0; j < G::columns / 8; ++j)
#pragma unroll
        for (int e = half * 2; e < half * 2 + 2; ++e) {
          const bool seen = query.keys.has(static_cast<int>(firstKey) + j * 8 + laneColumn() + e % 2);
          const float probability = probabilityOf<T>(scores[band][j][e], query, seen);
          sums[band][j][e] += scoreGradient(probability, scoreGradients[band][j][e], query, seen);
        }
    }
  }
  T* to = f.gbias + (h * s.queries + firstOfWarp) * s.keys + firstKey;
#pragma unroll
  for (int band = 0; band < G::bands; ++band)
#pragma unroll
    for (int j = 0; j < G::columns / 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = band * 16 + e / 2 * 8 + laneRow(), column = j * 8 + laneColumn() + e % 2;
        if (firstOfWarp + row < s.queries && firstKey + column < s.keys)
          to[row * s.keys + column] = fromFloat<T>(sums[band][j][e]);
      }
}

}  // namespace
}  // namespace infinity::cuda
