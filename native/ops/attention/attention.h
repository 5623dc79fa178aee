// Attention over rows [B, L, H·c]: the preparation of q, k, v and the softmax itself.
//
// Every query sums over its own keys in an order that is counted from the first of them (on a CPU one ascending chain
// of multiply-adds an element), so its result does not depend on the tile, the batch or the thread it was computed in,
// nor on keys that it does not see.
#pragma once
#include <cstdint>

#include "core/philox.h"
#include "core/tensor.h"

namespace infinity {

struct QkvPrepParams {
  uint32_t heads;
  uint32_t ropeStart;  // rope row of the first token
  uint32_t cosine;     // q and k are brought to length 1
};

constexpr double kLargestLogGain = 4.605170185988092;  // ln 100
constexpr double kSmallestNorm = 1e-12;

struct QkvAppendParams {
  QkvPrepParams prep;
  uint32_t start;         // row of the caches that takes the first token of the first sample
  uint32_t sampleStride;  // rows from there to the first token of the next
};

// Rows [.., L, 3C] of q, k and v, adjacent.
struct PrepShape {
  int64_t length, rows, channels, heads, width;
  PrepShape(const TensorView& qkv, uint32_t heads)
      : length(qkv.dims[qkv.rank - 2]),
        rows(qkv.rows()),
        channels(qkv.cols() / 3),
        heads(heads),
        width(channels / heads) {}
};

// Where k and v of token t of sample b go: row at(b, t).
struct PrepRows {
  int64_t start, sampleStride;
  explicit PrepRows(const PrepShape& s) : start(0), sampleStride(s.length) {}
  explicit PrepRows(const QkvAppendParams& params) : start(params.start), sampleStride(params.sampleStride) {}
  INFINITY_HD int64_t at(int64_t b, int64_t t) const { return start + b * sampleStride + t; }
};

struct AttentionParams {
  uint32_t heads;
  float scale;
  uint32_t sampleStride;  // rows of k from the first key of a sample to that of the next, 0 where they read the same
  uint32_t unitKeys;      // no key is longer than 1, but for rounding: scores are bounded by the queries
};

struct AttentionShape {
  int64_t batch, queries, sampleStride, keys, channels, heads, width;
  bool sharedKeys;  // one set of keys and values for all samples
  AttentionShape(const TensorView& q, const TensorView& k, const AttentionParams& params)
      : batch(q.dims[0]),
        queries(q.dims[1]),
        sampleStride(params.sampleStride),
        keys(int64_t{k.dims[0]} * k.dims[1] - (batch - 1) * sampleStride),
        channels(q.dims[2]),
        heads(params.heads),
        width(channels / heads),
        sharedKeys(sampleStride == 0 && batch > 1) {}
  // Elements from the start of q or o to a head of one query, and of k or v to a head of the first key.
  INFINITY_HD int64_t query(int64_t b, int64_t h, int64_t q) const { return (b * queries + q) * channels + h * width; }
  // The product alone would do, but makes nvcc keep two more registers and the widest kernels spill.
  INFINITY_HD int64_t key(int64_t b, int64_t h) const {
    return (sharedKeys ? 0 : b * sampleStride * channels) + h * width;
  }
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
  INFINITY_HD int64_t start(int64_t b, int64_t q) const { return data ? data[b * batchStep + q * queryStep] : 0; }
  INFINITY_HD int64_t end(int64_t b, int64_t q) const { return data ? data[b * batchStep + q * queryStep + 1] : keys; }
};

}  // namespace infinity
