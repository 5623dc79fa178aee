// What blocks of warpgroups have to do in attention, and in which order: the same for the warp that copies and for
// those that multiply.
//
// The keys of a query are cut into pieces of one length, counted from the first of them, and the results of the pieces
// are merged in their order: within a block one after the other, or, where there is too little else to do, by a kernel
// that follows. It is the same arithmetic: nothing in a result depends on who merged.
#pragma once
#include "cuda/hopper.cuh"
#include "ops/attention/cuda_ranges.cuh"

namespace infinity::cuda {
namespace {

// Keys of a piece, whole tiles of them. A merge moves 128 KiB through shared memory, by arithmetic the time of 64 keys;
// shorter pieces could be shared out finer.
constexpr int kPieceKeys = 2048;

// Blocks of 64 queries for each of their warpgroups, and tiles of as many keys; `kWidth` is the width of a head, padded
// to columns that a product of warpgroups has. In shared memory rows are whole boxes wide. Two warpgroups, or one for
// heads so wide that the sums of two find no room between pieces.
template <int kWidth_>
struct WarpgroupGeometry {
  static constexpr int kWidth = kWidth_, kGroups = kWidth_ <= 128 ? 2 : 1, kGroupRows = 64, kWarpRows = 16;
  static constexpr int kRows = kGroups * kGroupRows, kKeys = kRows;
  static constexpr int kThreads = (1 + kGroups) * kWarpgroup, kWarps = kGroups * kWarpgroup / kWarp;
  static constexpr int kBoxes = (kWidth + static_cast<int>(kBoxInner) - 1) / static_cast<int>(kBoxInner);
  static constexpr int kBoxBytes = kKeys * kSwizzleBytes, kTileBytes = kBoxes * kBoxBytes;
  static constexpr int kStages = kBoxes == 1 ? 8 : 4;  // tiles of keys or values
  static constexpr int kBarriers = 2 * kStages + 3 + kGroups;
  // Behind them the sums of the pieces before, ranges of this unit's rows and of the next one's, barriers. Tiles begin
  // at a multiple of 1024 bytes, dynamic shared memory at one of 128.
  static constexpr uint32_t kSharedBytes =
      1024 - 128 + (1 + kStages) * kTileBytes + kRows * kWidth * 4 + 2 * kRows * sizeof(KeyRange) + kBarriers * 8;
  static_assert(kRows == kKeys, "one shape of boxes for all operands");
  static_assert(kSharedBytes <= 232448, "what a block of compute capability 9.0 may have");
};

struct WarpgroupAttention {
  bf16* o;
  float* lse;
  AttentionShape shape;
  KeyRanges ranges;
  float perScore;  // takes q·k to units of Exponent<bf16>
  bool unitKeys;
  uint32_t* fault;

  // Decided when it is launched.
  int pieceKeys = kPieceKeys;
  int pieces = 1;         // that are shared out; 1: blocks take those of their rows one after the other
  int headsTogether = 1;  // heads whose units come before those of the next, so that keys and values stay in the cache
  int units = 0;
  float* pieceSums = nullptr;    // [pieces, B, H, Lq, c], where they are shared out
  float* pieceTotals = nullptr;  // [pieces, B, H, Lq, 4]

  __device__ __forceinline__ int64_t rows() const { return shape.batch * shape.heads * shape.queries; }
};

struct AttentionUnit {
  int head;   // b · H + h
  int first;  // query
  int piece;
};

// Blocks stay, and take every so many-th unit. Later queries see more keys where a schedule is causal: of the heads
// that go together they come first.
__device__ __forceinline__ AttentionUnit attentionUnit(const WarpgroupAttention& f, int rowsOfUnit, int unit) {
  const int heads = static_cast<int>(f.shape.batch * f.shape.heads);
  const int tiles = static_cast<int>(ceilDiv(f.shape.queries, rowsOfUnit)), ofHead = tiles * f.pieces;
  const int section = unit / (f.headsTogether * ofHead), within = unit - section * f.headsTogether * ofHead;
  const int firstHead = section * f.headsTogether, together = min(f.headsTogether, heads - firstHead);
  const int ofAll = within / together, tile = tiles - 1 - ofAll / f.pieces;
  return {firstHead + within % together, tile * rowsOfUnit, ofAll % f.pieces};
}

// Keys that are taken in one go: from `key` on, to the end of the piece or to where the keys of the group end that
// start at `begin`. `end` is 0 when there are none.
struct KeyRun {
  int begin, key, end;
};

// The runs of a unit, group by group as in cuda_ranges.cuh, piece by piece. A warp decides together.
template <class G>
struct KeyRuns {
  const KeyRange* rows;  // G::kRows, shared
  int pieceKeys;
  int piece;  // the only one of each group; -1: all

  __device__ __forceinline__ KeyRun first() const { return group(-1); }
  __device__ __forceinline__ KeyRun after(const KeyRun& run) const {
    if (piece < 0 && run.end - run.key > pieceKeys) return {run.begin, run.key + pieceKeys, run.end};
    return group(run.begin);
  }
  __device__ __forceinline__ int tiles(const KeyRun& run) const {
    return (min(run.end - run.key, pieceKeys) + G::kKeys - 1) / G::kKeys;
  }

 private:
  // Of the next group that has such a piece.
  __device__ __forceinline__ KeyRun group(int previous) const {
    for (;;) {
      int begin = INT_MAX, end = 0;
#pragma unroll
      for (int i = laneIndex(); i < G::kRows; i += kWarp) {
        const KeyRange row = rows[i];
        if (row.empty() || row.start <= previous || row.start > begin) continue;
        end = row.start < begin ? row.end : max(end, row.end);
        begin = row.start;
      }
      const int least = warpReduce(begin, Min{});
      end = warpReduce(begin == least ? end : 0, Max{});
      if (end == 0) return {0, 0, 0};
      const int key = least + max(piece, 0) * pieceKeys;
      if (key < end) return {least, key, end};
      previous = least;
    }
  }
};

// Shared memory of a block: one pointer, from which all others are found, for the sake of registers.
template <class G>
struct AttentionBlock {
  unsigned char* queries;

  static constexpr int kStagesAt = G::kTileBytes, kKeptAt = kStagesAt + G::kStages * G::kTileBytes;
  static constexpr int kRangesAt = kKeptAt + G::kRows * G::kWidth * 4, kBarriersAt = kRangesAt + 2 * G::kRows * 8;
  static_assert(sizeof(KeyRange) == 8, "two sets of ranges");

  __device__ __forceinline__ explicit AttentionBlock(unsigned char* memory)
      : queries(memory + (0u - sharedAddress(memory)) % kSwizzleRepeat) {}

  __device__ __forceinline__ unsigned char* stage(int s) const { return queries + kStagesAt + s * G::kTileBytes; }
  __device__ __forceinline__ float* kept() const { return reinterpret_cast<float*>(queries + kKeptAt); }
  // Of a block's units, those with odd numbers have the second set.
  __device__ __forceinline__ KeyRange* ranges(int round) const {
    return reinterpret_cast<KeyRange*>(queries + kRangesAt) + round % 2 * G::kRows;
  }
  __device__ __forceinline__ uint64_t* full(int stage) const { return barrier(stage); }
  __device__ __forceinline__ uint64_t* empty(int stage) const { return barrier(G::kStages + stage); }
  __device__ __forceinline__ uint64_t* queriesFull() const { return barrier(2 * G::kStages); }
  __device__ __forceinline__ uint64_t* queriesEmpty() const { return barrier(2 * G::kStages + 1); }
  __device__ __forceinline__ uint64_t* landed() const { return barrier(2 * G::kStages + 2); }
  __device__ __forceinline__ uint64_t* turns(int group) const { return barrier(2 * G::kStages + 3 + group); }

  // By one thread; a barrier follows.
  __device__ __forceinline__ void initBarriers() const {
    for (int s = 0; s < G::kStages; ++s) {
      initBarrier(full(s), 1);
      initBarrier(empty(s), G::kWarps);
    }
    initBarrier(queriesFull(), 1);
    initBarrier(queriesEmpty(), G::kWarps);
    initBarrier(landed(), 1);
    for (int group = 0; group < G::kGroups; ++group) initBarrier(turns(group), kWarpgroup / kWarp);
    publishBarriers();
  }

 private:
  __device__ __forceinline__ uint64_t* barrier(int i) const {
    return reinterpret_cast<uint64_t*>(queries + kBarriersAt) + i;
  }
};

}  // namespace
}  // namespace infinity::cuda
