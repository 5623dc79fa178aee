// softmax(scale·q·kᵀ)·v by Hopper's warpgroups (Shah et al., "FlashAttention-3", 2024). One warp of a block copies
// tiles of keys and values into a ring of stages; two warpgroups of 64 queries multiply: scores come from shared
// memory, weights stay in registers. The scores of a tile are on their way while the values of the tile before are
// summed, and warpgroups ask for products in turns, so that the softmax of one runs beside the products of the other.
// Blocks stay for several units.
//
// Every run of keys begins new sums, and its tiles are counted from the start of the run: no bit depends on the block,
// the batch, the place in a buffer or the length of the cache.
#pragma once
#include "ops/attention/cuda_hopper_softmax.cuh"
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

// A warpgroup's queries, and its products with what the ring brings.
template <class G>
struct AttentionProducts {
  using Softmax = WarpgroupSoftmax<G>;
  const AttentionBlock<G>& block;
  int group;  // of the two
  uint32_t ownQueries;
  uint32_t turn;  // parity of the phase that ends before the next
  RingPlace<G::kStages> place = {};
  typename Softmax::Scores scores = {};
  typename Softmax::Weights weights = {};
  float sums[G::kWidth / 2] = {};

  static constexpr int kTerms = 16;

  // A stage, to be released when its product is done.
  __device__ __forceinline__ int take() {
    const int stage = place.stage;
    waitBarrier(block.full(stage), place.parity);
    place.advance();
    return stage;
  }
  __device__ __forceinline__ void release(uint64_t* barrier) const {
    if (laneIndex() == 0) arrive(barrier);
  }
  // What is asked for between them is a turn. The first group begins; both have as many.
  __device__ __forceinline__ void beginTurn() {
    waitBarrier(block.turns(group), turn);
    turn ^= 1;
  }
  __device__ __forceinline__ void endTurn() const { release(block.turns(1 - group)); }
  __device__ __forceinline__ uint32_t address(int stage) const { return sharedAddress(block.stage(stage)); }

  // scores = queries · keysᵀ, under way.
  __device__ __forceinline__ int multiplyKeys() {
    const int stage = take();
    const uint32_t keys = address(stage);
    holdSums(scores);
    openProducts();
#pragma unroll
    for (int d = 0; d < G::kWidth; d += kTerms) {
      const uint32_t at = d / kBoxInner * G::kBoxBytes + d % kBoxInner * 2;
      const uint64_t left = matrixDescriptor(ownQueries + at, 16, kSwizzleRepeat, MatrixSwizzle::bytes128);
      const uint64_t right = matrixDescriptor(keys + at, 16, kSwizzleRepeat, MatrixSwizzle::bytes128);
      multiply<G::kKeys, false, false>(scores, left, right, d > 0);
    }
    commitProducts();
    return stage;
  }
  // sums (+)= weights · values, under way.
  __device__ __forceinline__ int multiplyValues(bool accumulate) {
    const int stage = take();
    const uint32_t values = address(stage);
    holdSums(sums);
    openProducts();
#pragma unroll
    for (int k = 0; k < G::kKeys; k += kTerms) {
      const uint64_t right =
          matrixDescriptor(values + k * kSwizzleBytes, G::kBoxBytes, kSwizzleRepeat, MatrixSwizzle::bytes128);
      multiplyRegisters<G::kWidth>(sums, weights[k / kTerms], right, accumulate || k > 0);
    }
    commitProducts();
    return stage;
  }

  // The sums of one run of keys.
  __device__ __forceinline__ void take(const KeyRun& run, int tiles, const int (&stop)[2], bool last, float perScore,
                                       Softmax& softmax) {
    const int seenByAll = warpReduce(min(stop[0], stop[1]), Min{});
    float factor[2] = {};
    int key = run.key;
    const auto weigh = [&] {
      if (key + G::kKeys > seenByAll) Softmax::hide(scores, key, stop);
      softmax.weigh(scores, perScore, factor);
      key += G::kKeys;
    };
    int ofKeys = multiplyKeys();
    waitProducts<0>();
    holdSums(scores);
    release(block.empty(ofKeys));
    weigh();
    softmax.pack(scores, weights);
    for (int tile = 1; tile < tiles; ++tile) {
      beginTurn();
      ofKeys = multiplyKeys();
      const int ofValues = multiplyValues(tile > 1);
      endTurn();
      waitProducts<1>();
      holdSums(scores);
      release(block.empty(ofKeys));
      weigh();
      waitProducts<0>();
      holdSums(sums);
      holdWords(weights);
      release(block.empty(ofValues));
      softmax.rescale(sums, factor);
      softmax.pack(scores, weights);
    }
    if (last) release(block.queriesEmpty());
    const int ofValues = multiplyValues(tiles > 1);
    waitProducts<0>();
    holdSums(sums);
    holdWords(weights);
    release(block.empty(ofValues));
  }
};

// Where a lane keeps its sums between pieces, and a warp passes its rows on.
template <class G>
struct KeptSums {
  static constexpr int kPitch = G::kWidth + 8;  // of a row of bf16: neighbours begin in different banks
  float* own;                                   // of the warp
  __device__ __forceinline__ float* at(int i) const { return own + (i / 4 * kWarp + laneIndex()) * 4; }

  __device__ __forceinline__ void keep(const float (&sums)[G::kWidth / 2]) const {
#pragma unroll
    for (int i = 0; i < G::kWidth / 2; i += 4)
      storePack(at(i), Pack<float, 4>{{sums[i], sums[i + 1], sums[i + 2], sums[i + 3]}});
  }
  __device__ __forceinline__ void addTo(float (&sums)[G::kWidth / 2], const PieceFactors (&f)[2]) const {
#pragma unroll
    for (int i = 0; i < G::kWidth / 2; i += 4) {
      const auto before = loadPack<4>(at(i));
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[i + e] = f[e / 2].add(before.v[e], sums[i + e]);
    }
  }
  // The warp's rows of the result, `present` of them, from `to` on.
  __device__ __forceinline__ void store(const float (&sums)[G::kWidth / 2], const RowTotals (&totals)[2], bf16* to,
                                        int64_t channels, int width, int64_t present) const {
    bf16* const tile = reinterpret_cast<bf16*>(own);
    __syncwarp();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float factor = totals[half].inverse();
#pragma unroll
      for (int j = 0; j < G::kWidth / 8; ++j) {
        const float *d = sums + j * 4 + half * 2, x = d[0] * factor, y = d[1] * factor;
        storePack(tile + (half * 8 + laneRow()) * kPitch + j * 8 + laneColumn(),
                  Pack<bf16, 2>{{fromFloat<bf16>(x), fromFloat<bf16>(y)}});
      }
    }
    __syncwarp();
    constexpr int kPacks = G::kWidth / 8;
#pragma unroll 1
    for (int i = laneIndex(); i < G::kWarpRows * kPacks; i += kWarp) {
      const int row = i / kPacks, d = i % kPacks * 8;
      if (row < present && d < width) storePack(to + row * channels + d, loadPack<8>(tile + row * kPitch + d));
    }
    __syncwarp();
  }
};

template <class G>
__device__ __forceinline__ void multiplyUnits(const AttentionBlock<G>& block, const WarpgroupAttention& f) {
  const int thread = static_cast<int>(threadIdx.x) - kWarpgroup, warp = thread / kWarp;
  const int group = thread / kWarpgroup;
  AttentionProducts<G> products = {block, group, sharedAddress(block.queries) + group * G::kGroupRows * kSwizzleBytes,
                                   group ^ 1u};
  const KeptSums<G> kept = {block.kept() + warp * G::kWarpRows * G::kWidth};
  const int ownRow = warp * G::kWarpRows;
  int round = 0;
  for (int item = static_cast<int>(blockIdx.x); item < f.units; item += static_cast<int>(gridDim.x), ++round) {
    const AttentionUnit unit = attentionUnit(f, G::kRows, item);
    const KeyRange* const rows = block.ranges(round);
    waitBarrier(block.queriesFull(), round & 1);
    const KeyRuns<G> runs = {rows, f.pieceKeys, f.pieces > 1 ? unit.piece : -1};
    const uint32_t bounded = f.unitKeys ? boundedRows<G>(block.queries, ownRow, f.perScore) : 0;
    RowTotals totals[2] = {{-INFINITY, 0, 0}, {-INFINITY, 0, 0}};
    KeyRun run = runs.first();
    const bool any = run.end > 0;
    if (!any) {
      products.release(block.queriesEmpty());
#pragma unroll
      for (int i = 0; i < G::kWidth / 2; ++i) products.sums[i] = 0;
    }
    for (bool first = true; run.end > 0; first = false) {
      const KeyRun next = runs.after(run);
      int stop[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const KeyRange row = rows[ownRow + half * 8 + laneRow()];
        stop[half] = row.start == run.begin && !row.empty() ? row.end : 0;
      }
      WarpgroupSoftmax<G> softmax;
      softmax.begin(bounded);
      products.take(run, runs.tiles(run), stop, next.end == 0, f.perScore, softmax);
      if (first) {
        totals[0] = softmax.totals(0), totals[1] = softmax.totals(1);
      } else {
        const PieceFactors factors[2] = {addPiece(totals[0], softmax.totals(0)),
                                         addPiece(totals[1], softmax.totals(1))};
        kept.addTo(products.sums, factors);
      }
      if (next.end > 0) kept.keep(products.sums);
      run = next;
    }

    const int64_t firstRow = unit.head * f.shape.queries + unit.first + ownRow;
    const int64_t present = f.shape.queries - unit.first - ownRow;
    if (f.pieces > 1) {
      // Rows without keys in this piece are left out where no row of the block has any, and never read.
      const int64_t piece = unit.piece * f.rows();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = half * 8 + laneRow();
        if (!any || row >= present) continue;
        const int64_t at = piece + firstRow + row;
        if (laneColumn() == 0)
          storePack(f.pieceTotals + at * 4,
                    Pack<float, 4>{{totals[half].largest, totals[half].exact, totals[half].rounded, 0}});
        float* const to = f.pieceSums + at * f.shape.width + laneColumn();
#pragma unroll
        for (int j = 0; j < G::kWidth / 8; ++j)
          if (j * 8 < f.shape.width)
            storePack(to + j * 8,
                      Pack<float, 2>{{products.sums[j * 4 + half * 2], products.sums[j * 4 + half * 2 + 1]}});
      }
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = half * 8 + laneRow();
        if (row < present && laneColumn() == 0) f.lse[firstRow + row] = totals[half].logSumExp();
      }
      const int heads = static_cast<int>(f.shape.heads);
      bf16* const to = f.o + f.shape.query(unit.head / heads, unit.head % heads, unit.first + ownRow);
      kept.store(products.sums, totals, to, f.shape.channels, static_cast<int>(f.shape.width), present);
    }
  }
}

template <class G>
__global__ void __launch_bounds__(G::kThreads, 1)
    attentionWarpgroups(const __grid_constant__ TensorMap mapQ, const __grid_constant__ TensorMap mapK,
                        const __grid_constant__ TensorMap mapV, const WarpgroupAttention f) {
#if defined(INFINITY_HOPPER)
  const AttentionBlock<G> block(dynamicShared<unsigned char>());
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) block.initBarriers();
  __syncthreads();
  // Three warpgroups share 504 of the 512 registers that four would have, and the copying one needs few.
  if (thread < kWarpgroup) {
    giveRegisters<40>();
    if (thread < kWarp) {
      if (thread == 0) {
        prefetchTensorMap(mapQ);
        prefetchTensorMap(mapK);
        prefetchTensorMap(mapV);
      }
      copyUnits<G>(block, mapQ, mapK, mapV, f);
    }
  } else {
    takeRegisters<232>();
    multiplyUnits<G>(block, f);
  }
#else
  __trap();  // decided for compute capability 9.0 alone
#endif
}

}  // namespace
}  // namespace infinity::cuda
