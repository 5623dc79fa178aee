// Gradients of attention from the saved log-sum-exps. One thread takes a head with all its queries (and all samples,
// where they add to the same gradient), so sums over queries have one order.
#pragma once
#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/attention/attention.h"
#include "ops/attention/cpu_forward.h"
#include "ops/attention/cpu_product.h"

namespace infinity::INFINITY_ISA {
namespace {

// Elements of scratch a thread takes: queries and output gradients turned, scores and their gradients.
inline int64_t attentionBackwardScratch(const AttentionShape& s) { return 2 * (s.width + kKeys) * kQueries; }

// rows[r·ld .. + width) ·= factor
template <class T>
void scaleRows(T* rows, int64_t ld, int64_t count, int64_t width, T factor) {
  for (int64_t r = 0; r < count; ++r)
    for (int64_t d = 0; d < width; d += lanesOf<T>) {
      const int n = width - d < lanesOf<T> ? static_cast<int>(width - d) : lanesOf<T>;
      T* p = rows + r * ld + d;
      storeUpTo(p, loadUpTo(p, n) * splat(factor), n);
    }
}

template <class T>
void zeroRows(T* rows, int64_t ld, int64_t count, int64_t width) {
  for (int64_t r = 0; r < count; ++r) __builtin_memset(rows + r * ld, 0, static_cast<size_t>(width) * sizeof(T));
}

// Inputs go, q, k, v, o, lse, ranges, bias; outputs gq, gk, gv and, with the bias, its gradient.
template <class T, bool withBias>
void attentionBackwardKernel(const KernelArgs& a) {
  const AttentionParams& params = a.paramsAs<AttentionParams>();
  const AttentionShape s(a.in[1], a.in[2], params);
  const T *go = a.in[0].as<T>(), *q = a.in[1].as<T>(), *k = a.in[2].as<T>(), *v = a.in[3].as<T>();
  const T *o = a.in[4].as<T>(), *lse = a.in[5].as<T>(), *bias = withBias ? a.in[7].as<T>() : nullptr;
  T *gq = a.out[0].as<T>(), *gk = a.out[1].as<T>(), *gv = a.out[2].as<T>();
  T* gbias = withBias ? a.out[3].as<T>() : nullptr;
  const KeyRanges ranges(a.in[6], s.keys);
  const T scale = static_cast<T>(params.scale);
  const int64_t ld = s.channels;

  const auto queryTile = [&](int64_t b, int64_t h, int64_t first, T* memory) {
    const int64_t count = s.queries - first < kQueries ? s.queries - first : kQueries;
    const int64_t padded = paddedQueries<T>(count), at = s.query(b, h, first);
    const TileRange tile(ranges, b, first, count);
    const LaneRanges<T> lanes(ranges, b, first, count);
    T *turned = memory, *goTurned = turned + s.width * kQueries;
    T *scores = goTurned + s.width * kQueries, *gscores = scores + kKeys * kQueries;
    alignas(64) T logs[kQueries] = {}, inner[kQueries] = {};
    for (int64_t i = 0; i < count; ++i) {
      logs[i] = lse[(b * s.heads + h) * s.queries + first + i];
      inner[i] = dotRow(go + at + i * ld, o + at + i * ld, s.width);
    }
    transposeScaled(q + at, ld, count, s.width, scale, turned, padded);
    transposeScaled(go + at, ld, count, s.width, T(1), goTurned, padded);
    zeroRows(gq + at, ld, count, s.width);
    for (int64_t key = tile.begin; key < tile.end; key += kKeys) {
      const int64_t some = tile.end - key < kKeys ? tile.end - key : kKeys;
      const int64_t rows = s.key(b, h) + key * ld, biasAt = (h * s.queries + first) * s.keys + key;
      Product<T>{k + rows, ld, 1, turned, padded, s.width, scores, padded, false}.run(some, padded);
      Product<T>{v + rows, ld, 1, goTurned, padded, s.width, gscores, padded, false}.run(some, padded);
      if (withBias) addBias(bias + biasAt, s.keys, count, some, scores, padded);
      for (int64_t j = 0; j < some; ++j) {
        const bool seenByAll = key + j >= tile.allBegin && key + j < tile.allEnd;
        for (int64_t lane = 0; lane < padded; lane += lanesOf<T>) {
          T *ps = scores + j * padded + lane, *pg = gscores + j * padded + lane;
          Vec<T> p = weightOf(load(ps) - load(logs + lane));
          if (!seenByAll) p = lanes.where(key + j, lane, p, Vec<T>{});
          store(ps, p);
          store(pg, p * (load(pg) - load(inner + lane)));
        }
      }
      if (withBias) {
        T* to = gbias + biasAt;
        for (int64_t i = 0; i < count; ++i)
          for (int64_t j = 0; j < some; ++j) to[i * s.keys + j] += gscores[j * padded + i];
      }
      Product<T>{gscores, 1, padded, k + rows, ld, some, gq + at, ld, true}.run(count, s.width);
      Product<T>{gscores, padded, 1, q + at, ld, count, gk + rows, ld, true}.run(some, s.width);
      Product<T>{scores, padded, 1, go + at, ld, count, gv + rows, ld, true}.run(some, s.width);
    }
    scaleRows(gq + at, ld, count, s.width, scale);
  };

  const bool together = withBias || s.sharedKeys;
  parallelForWithMemory(*a.pool, together ? s.heads : s.batch * s.heads, a.scratch,
                        static_cast<size_t>(attentionBackwardScratch(s)) * sizeof(T), [&](int64_t index, void* memory) {
                          const int64_t h = index % s.heads, samples = together ? s.batch : 1;
                          if (withBias)
                            __builtin_memset(gbias + h * s.queries * s.keys, 0,
                                             static_cast<size_t>(s.queries * s.keys) * sizeof(T));
                          for (int64_t sample = 0; sample < samples; ++sample) {
                            const int64_t b = together ? sample : index / s.heads;
                            const bool firstUse = !s.sharedKeys || b == 0, lastUse = !s.sharedKeys || b == s.batch - 1;
                            if (firstUse) {
                              zeroRows(gk + s.key(b, h), ld, s.keys, s.width);
                              zeroRows(gv + s.key(b, h), ld, s.keys, s.width);
                            }
                            for (int64_t first = 0; first < s.queries; first += kQueries)
                              queryTile(b, h, first, static_cast<T*>(memory));
                            if (lastUse) scaleRows(gk + s.key(b, h), ld, s.keys, s.width, scale);
                          }
                        });
}

size_t attentionBackwardPlan(const KernelArgs& a) {
  const AttentionShape s(a.in[1], a.in[2], a.paramsAs<AttentionParams>());
  return static_cast<size_t>(attentionBackwardScratch(s) * a.pool->threads()) * dtypeBytes(a.in[1].dtype);
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
