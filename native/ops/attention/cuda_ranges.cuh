// Which keys the rows of a block see, and in which order they are taken.
#pragma once
#include <climits>

#include "ops/attention/cuda_tile.cuh"

namespace infinity::cuda {
namespace {

struct KeyRange {
  int start, end;
  __device__ __forceinline__ bool empty() const { return start >= end; }
  __device__ __forceinline__ bool has(int key) const { return key >= start && key < end; }
};

// The keys that a query sees, none for one that does not exist. A range beyond the keys raises the fault, if one is
// given.
__device__ __forceinline__ KeyRange rangeOf(const KeyRanges& ranges, int64_t b, int64_t query, int64_t queries,
                                            uint32_t* fault = nullptr) {
  if (query >= queries) return {0, 0};
  const int64_t start = ranges.start(b, query), end = ranges.end(b, query);
  if (fault && (start < 0 || end > ranges.keys)) atomicOr(fault, static_cast<uint32_t>(kKeyRange));
  return {static_cast<int>(start > 0 ? start : 0), static_cast<int>(end < ranges.keys ? end : ranges.keys)};
}

// Fills the ranges of a block's rows; a barrier follows.
template <class G>
__device__ __forceinline__ void loadRanges(KeyRange* rows /* G::rows, shared */, const KeyRanges& ranges, int64_t b,
                                           int64_t first, int64_t queries, uint32_t* fault = nullptr) {
  for (int i = static_cast<int>(threadIdx.x); i < G::rows; i += G::threads)
    rows[i] = rangeOf(ranges, b, first + i, queries, fault);
}

// Rows of a block whose keys start at one place. A block takes its rows by such groups (one, as a rule), tile after
// tile from their first key: so where in a buffer the keys lie, and what other rows see, decides no bit of a result.
struct RowGroup {
  int begin, end;            // keys of the group; end is 0 when there is none
  int seenByAll, seenByOne;  // where the keys end that every row of the warp sees, and that any does

  // Where the keys of a row end, 0 for rows outside the group.
  __device__ __forceinline__ int stop(const KeyRange& row) const {
    return row.start == begin && !row.empty() ? row.end : 0;
  }
};

// The group that starts next after `previous`. All threads take part.
template <class G>
__device__ __forceinline__ RowGroup nextGroup(const KeyRange* rows, int previous, int* slots /* G::warps, shared */) {
  const KeyRange row = rows[G::ownRow() + laneIndex() % G::bandRows];
  RowGroup group;
  group.begin = blockReduce<G::threads>(!row.empty() && row.start > previous ? row.start : INT_MAX, slots, Min{});
  const int stop = group.stop(row);
  group.seenByAll = warpReduce(stop, Min{});
  group.seenByOne = warpReduce(stop, Max{});
  group.end = blockReduce<G::threads>(stop, slots, Max{});
  return group;
}

}  // namespace
}  // namespace infinity::cuda
