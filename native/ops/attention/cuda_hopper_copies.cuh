// What a block of warpgroups works on comes through one of its warps: queries, and keys and values in a ring.
#pragma once
#include "ops/attention/cuda_hopper_work.cuh"

namespace infinity::cuda {
namespace {

// The warp that copies. In the order in which they are used: keys of a tile, then values of the tile before.
template <class G>
struct AttentionCopies {
  const AttentionBlock<G>& block;
  const TensorMap &mapK, &mapV;
  RingPlace<G::kStages> place = {};
  uint32_t landings = 0;

  __device__ __forceinline__ static void copy(unsigned char* to, const TensorMap& map, uint64_t* barrier, int head,
                                              int row) {
    arriveExpecting(barrier, G::kTileBytes);
#pragma unroll
    for (int box = 0; box < G::kBoxes; ++box)
      copyHeadBox(to + box * G::kBoxBytes, map, barrier, box * static_cast<int>(kBoxInner), head, row);
  }
  __device__ __forceinline__ unsigned char* stage() const { return block.stage(place.stage); }

  __device__ __forceinline__ void keys(int head, int row) {
    if (laneIndex() == 0) {
      waitBarrier(block.empty(place.stage), place.parity ^ 1);
      copy(stage(), mapK, block.full(place.stage), head, row);
    }
    place.advance();
  }
  // Of which `present` are the group's. What lies behind them may be anything: it becomes zero before it meets a weight
  // of zero.
  __device__ __forceinline__ void values(int head, int row, int present) {
    uint64_t* const full = block.full(place.stage);
    uint64_t* const come = present < G::kKeys ? block.landed() : full;
    if (laneIndex() == 0) {
      waitBarrier(block.empty(place.stage), place.parity ^ 1);
      copy(stage(), mapV, come, head, row);
    }
    if (present < G::kKeys) {
      waitBarrier(block.landed(), landings++ & 1);
#pragma unroll 1
      for (int at = present * kSwizzleBytes + laneIndex() * 16; at < G::kBoxBytes; at += kWarp * 16)
#pragma unroll
        for (int box = 0; box < G::kBoxes; ++box)
          storePack(reinterpret_cast<uint32_t*>(stage() + box * G::kBoxBytes + at), Pack<uint32_t, 4>{});
      publishToAsync();
      __syncwarp();
      if (laneIndex() == 0) arrive(full);
    }
    place.advance();
  }
};

template <class G>
__device__ __forceinline__ void copyUnits(const AttentionBlock<G>& block, const TensorMap& mapQ, const TensorMap& mapK,
                                          const TensorMap& mapV, const WarpgroupAttention& f) {
  AttentionCopies<G> copies = {block, mapK, mapV};
  const int heads = static_cast<int>(f.shape.heads), queries = static_cast<int>(f.shape.queries);
  int round = 0;
  for (int item = static_cast<int>(blockIdx.x); item < f.units; item += static_cast<int>(gridDim.x), ++round) {
    const AttentionUnit unit = attentionUnit(f, G::kRows, item);
    const int b = unit.head / heads, h = unit.head % heads;
    KeyRange* const rows = block.ranges(round);
    // The queries of the unit before were asked for: nobody needs the ranges of the one before that.
    __syncwarp();
    for (int i = laneIndex(); i < G::kRows; i += kWarp)
      rows[i] = rangeOf(f.ranges, b, unit.first + i, queries, f.fault);
    __syncwarp();
    bool asked = false;
    const auto askQueries = [&] {
      asked = true;
      if (laneIndex() != 0) return;
      waitBarrier(block.queriesEmpty(), (round & 1) ^ 1);
      AttentionCopies<G>::copy(block.queries, mapQ, block.queriesFull(), h, b * queries + unit.first);
    };
    const KeyRuns<G> runs = {rows, f.pieceKeys, f.pieces > 1 ? unit.piece : -1};
    const int firstRow = b * static_cast<int>(f.shape.sampleStride);
    for (KeyRun run = runs.first(); run.end > 0; run = runs.after(run)) {
      const int tiles = runs.tiles(run);
#pragma unroll 1
      for (int tile = 0; tile <= tiles; ++tile) {
        const int key = run.key + tile * G::kKeys, before = key - G::kKeys;
        if (tile < tiles) copies.keys(h, firstRow + key);
        if (!asked) askQueries();
        if (tile > 0) copies.values(h, firstRow + before, run.end - before);
      }
    }
    if (!asked) askQueries();
  }
}

}  // namespace
}  // namespace infinity::cuda
