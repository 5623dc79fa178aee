// Attention over rows [B, L, H·c]: the preparation of q, k, v and the softmax itself.
//
// Every query sums over its own keys in ascending order, one chain of multiply-adds an element, so its result does not
// depend on the tile, the batch or the thread it was computed in, nor on keys that it does not see.
#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace infinity {

struct QkvPrepParams {
  uint32_t heads;
  uint32_t ropeStart;  // rope row of the first token
  uint32_t cosine;     // q and k are brought to length 1
};

struct AttentionParams {
  uint32_t heads;
  float scale;
};

// Queries of a tile: the lanes of a few vectors, because the softmax statistics then need no sum across lanes.
constexpr int64_t kQueries = 32;
// Keys whose scores are held at a time where a pass over all keys is not needed.
constexpr int64_t kKeys = 128;

struct AttentionShape {
  int64_t batch, queries, keys, channels, heads, width;
  bool sharedKeys;  // one set of keys and values for all samples
  AttentionShape(const TensorView& q, const TensorView& k, uint32_t heads)
      : batch(q.dims[0]),
        queries(q.dims[1]),
        keys(k.dims[1]),
        channels(q.dims[2]),
        heads(heads),
        width(channels / heads),
        sharedKeys(k.dims[0] == 1 && batch > 1) {}
  int64_t queryTiles() const { return (queries + kQueries - 1) / kQueries; }
  // Elements from the start of q or o to a head of one query, and of k or v to a head of the first key.
  int64_t query(int64_t b, int64_t h, int64_t q) const { return (b * queries + q) * channels + h * width; }
  int64_t key(int64_t b, int64_t h) const { return (sharedKeys ? 0 : b * keys * channels) + h * width; }
};

// The keys [start, end) that a query sees; an absent tensor shows all, extents of 1 repeat.
struct KeyRanges {
  const int32_t* data;
  int64_t batchStep, queryStep, keys;
  KeyRanges(const TensorView& range, int64_t keys)
      : data(range.as<int32_t>()),
        batchStep(range && range.dims[0] > 1 ? int64_t{range.dims[1]} * 2 : 0),
        queryStep(range && range.dims[1] > 1 ? 2 : 0),
        keys(keys) {}
  int64_t start(int64_t b, int64_t q) const { return data ? data[b * batchStep + q * queryStep] : 0; }
  int64_t end(int64_t b, int64_t q) const { return data ? data[b * batchStep + q * queryStep + 1] : keys; }
  static bool valid(const TensorView& range, int64_t keys) {
    if (!range) return true;
    const int32_t* r = range.as<int32_t>();
    for (int64_t i = 0; i < range.size(); i += 2)
      if (r[i] < 0 || r[i + 1] > keys) return false;
    return true;
  }
};

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

}  // namespace infinity
