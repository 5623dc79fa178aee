// softmax(scale·q·kᵀ + bias)·v for tiles of one head and kQueries queries. The scores of a tile are kept for all its
// keys: the softmax is then exact in two passes, and nothing is rescaled on the way.
#pragma once
#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/attention/attention.h"
#include "ops/attention/cpu_product.h"

namespace infinity::INFINITY_ISA {
namespace {

// Queries of a tile: the lanes of a few vectors, because the softmax statistics then need no sum across lanes.
constexpr int64_t kQueries = 32;
// Keys whose scores are held at a time where a pass over all keys is not needed.
constexpr int64_t kKeys = 128;

inline bool validRanges(const TensorView& range, int64_t keys) {
  if (!range) return true;
  const int32_t* r = range.as<int32_t>();
  for (int64_t i = 0; i < range.size(); i += 2)
    if (r[i] < 0 || r[i + 1] > keys) return false;
  return true;
}

// What the queries [first, first + count) see together: some of them [begin, end), all of them [allBegin, allEnd).
struct TileRange {
  int64_t begin, end, allBegin, allEnd;
  TileRange(const KeyRanges& ranges, int64_t b, int64_t first, int64_t count) {
    begin = ranges.keys, end = 0, allBegin = 0, allEnd = ranges.keys;
    for (int64_t q = first; q < first + count; ++q) {
      const int64_t s = ranges.start(b, q), e = ranges.end(b, q);
      allBegin = s > allBegin ? s : allBegin;
      allEnd = e < allEnd ? e : allEnd;
      if (s >= e) continue;
      begin = s < begin ? s : begin;
      end = e > end ? e : end;
    }
    if (end < begin) begin = end = 0;
  }
  int64_t keys() const { return end - begin; }
};

template <class T>
constexpr int64_t paddedQueries(int64_t count) {
  return (count + lanesOf<T> - 1) / lanesOf<T> * lanesOf<T>;
}

// The ranges of a tile's queries as vectors of T (exact: keys are counted far below 2^24).
template <class T>
struct LaneRanges {
  T start[kQueries], end[kQueries];
  LaneRanges(const KeyRanges& ranges, int64_t b, int64_t first, int64_t count) {
    for (int64_t i = 0; i < kQueries; ++i) {
      start[i] = i < count ? static_cast<T>(ranges.start(b, first + i)) : T(0);
      end[i] = i < count ? static_cast<T>(ranges.end(b, first + i)) : T(0);
    }
  }
  // x where the query sees the key, else `hidden`.
  INFINITY_INLINE Vec<T> where(int64_t key, int64_t lane, Vec<T> x, Vec<T> hidden) const {
    const Vec<T> at = splat(static_cast<T>(key));
    x = at >= load(start + lane) ? x : hidden;
    return at < load(end + lane) ? x : hidden;
  }
};

// exp(x) for x ≤ 0, and 0 below −80, hidden keys' −∞ included: results that small change no sum, and left to themselves
// they become subnormal numbers, which processors multiply a hundred times more slowly.
template <class V>
INFINITY_INLINE V weightOf(V x) {
  using T = decltype(hsum(x));
  const V smallest = splat(T(-80));
  const V weight = exp(x < smallest ? smallest : x);
  return x < smallest ? V{} : weight;
}

// scores[j·padded + i] += bias[i·ld + j]
template <class T>
void addBias(const T* bias, int64_t ld, int64_t queries, int64_t keys, T* scores, int64_t padded) {
  for (int64_t i = 0; i < queries; ++i)
    for (int64_t j = 0; j < keys; ++j) scores[j * padded + i] += bias[i * ld + j];
}

// Scores to unnormalised probabilities for V vectors of queries from `lane` on; sums and log-sum-exps of the lanes.
template <class T, int V>
void softmaxColumns(T* scores, int64_t padded, const TileRange& tile, const LaneRanges<T>& ranges, int64_t lane,
                    T* sums, T* lse) {
  constexpr int lanes = lanesOf<T>;
  const Vec<T> hidden = splat(static_cast<T>(-__builtin_inf()));
  Vec<T> largest[V], sum[V];
  for (int v = 0; v < V; ++v) largest[v] = hidden, sum[v] = Vec<T>{};
  for (int64_t key = tile.begin; key < tile.end; ++key) {
    T* row = scores + (key - tile.begin) * padded + lane;
    const bool seenByAll = key >= tile.allBegin && key < tile.allEnd;
    for (int v = 0; v < V; ++v) {
      Vec<T> s = load(row + v * lanes);
      if (!seenByAll) store(row + v * lanes, s = ranges.where(key, lane + v * lanes, s, hidden));
      largest[v] = max(largest[v], s);
    }
  }
  // A query without keys has no maximum: with 0 its probabilities are exp(−∞) = 0.
  for (int v = 0; v < V; ++v) largest[v] = largest[v] == hidden ? Vec<T>{} : largest[v];
  for (int64_t j = 0; j < tile.keys(); ++j) {
    T* row = scores + j * padded + lane;
    for (int v = 0; v < V; ++v) {
      const Vec<T> p = weightOf(load(row + v * lanes) - largest[v]);
      store(row + v * lanes, p);
      sum[v] += p;
    }
  }
  for (int v = 0; v < V; ++v) {
    store(sums + lane + v * lanes, sum[v]);
    store(lse + lane + v * lanes, sum[v] == Vec<T>{} ? Vec<T>{} : largest[v] + log(sum[v]));
  }
}

// Elements of scratch a tile takes: its queries turned, and its scores.
inline int64_t attentionScratch(const AttentionShape& s) { return (s.width + s.keys) * kQueries; }

// Inputs q, k, v, ranges, bias; outputs o and the log-sum-exps [B, H, Lq], 0 for a query without keys.
template <class T>
void attentionKernel(const KernelArgs& a) {
  const AttentionParams& params = a.paramsAs<AttentionParams>();
  const AttentionShape s(a.in[0], a.in[1], params);
  const T *q = a.in[0].as<T>(), *k = a.in[1].as<T>(), *v = a.in[2].as<T>(), *bias = a.in[4].as<T>();
  T *o = a.out[0].as<T>(), *lse = a.out[1].as<T>();
  if (!validRanges(a.in[3], s.keys)) return a.fail("INVALID_ARGUMENT", "a key range leaves the rows of k");
  const KeyRanges ranges(a.in[3], s.keys);
  const int64_t tiles = (s.queries + kQueries - 1) / kQueries;
  parallelForWithMemory(
      *a.pool, s.batch * s.heads * tiles, a.scratch, static_cast<size_t>(attentionScratch(s)) * sizeof(T),
      [&](int64_t index, void* memory) {
        const int64_t b = index / (s.heads * tiles), h = index / tiles % s.heads, first = index % tiles * kQueries;
        const int64_t count = s.queries - first < kQueries ? s.queries - first : kQueries;
        const int64_t padded = paddedQueries<T>(count);
        const TileRange tile(ranges, b, first, count);
        const LaneRanges<T> lanes(ranges, b, first, count);
        T *turned = static_cast<T*>(memory), *scores = turned + s.width * kQueries;
        alignas(64) T sums[kQueries], logs[kQueries];
        const T* keys = k + s.key(b, h) + tile.begin * s.channels;
        const T* values = v + s.key(b, h) + tile.begin * s.channels;
        T* out = o + s.query(b, h, first);

        transposeScaled(q + s.query(b, h, first), s.channels, count, s.width, static_cast<T>(params.scale), turned,
                        padded);
        Product<T>{keys, s.channels, 1, turned, padded, s.width, scores, padded, false}.run(tile.keys(), padded);
        if (bias)
          addBias(bias + (h * s.queries + first) * s.keys + tile.begin, s.keys, count, tile.keys(), scores, padded);
        int64_t lane = 0;
        for (; lane + 2 * lanesOf<T> <= padded; lane += 2 * lanesOf<T>)
          softmaxColumns<T, 2>(scores, padded, tile, lanes, lane, sums, logs);
        if (lane < padded) softmaxColumns<T, 1>(scores, padded, tile, lanes, lane, sums, logs);

        int64_t done = 0;
        do {
          const int64_t some = tile.keys() - done < kKeys ? tile.keys() - done : kKeys;
          Product<T>{scores + done * padded,
                     1,
                     padded,
                     values + done * s.channels,
                     s.channels,
                     some,
                     out,
                     s.channels,
                     done > 0}
              .run(count, s.width);
          done += some;
        } while (done < tile.keys());
        for (int64_t i = 0; i < count; ++i) {
          const Vec<T> factor = splat(sums[i] == 0 ? T(0) : T(1) / sums[i]);
          T* row = out + i * s.channels;
          int64_t d = 0;
          for (; d + lanesOf<T> <= s.width; d += lanesOf<T>) store(row + d, load(row + d) * factor);
          const int rest = static_cast<int>(s.width - d);
          if (rest) storeTail(row + d, loadTail(row + d, rest) * factor, rest);
          lse[(b * s.heads + h) * s.queries + first + i] = logs[i];
        }
      });
}

size_t attentionPlan(const KernelArgs& a) {
  const AttentionShape s(a.in[0], a.in[1], a.paramsAs<AttentionParams>());
  return static_cast<size_t>(attentionScratch(s) * a.pool->threads()) * dtypeBytes(a.in[0].dtype);
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
