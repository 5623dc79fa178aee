// softmax(scale·q·kᵀ)·v by Hopper's warpgroups (Shah et al., "FlashAttention-3", 2024). One warp of a block copies
// tiles of keys and values into a ring of stages; two warpgroups of 64 queries multiply: scores come from shared
// memory, weights stay in registers. The scores of a tile are on their way while the values of the tile before are
// summed, and warpgroups ask for products in turns, so that the softmax of one runs beside the products of the other.
// Blocks stay for several units.
//
// Every run of keys begins new sums, and its tiles are counted from the start of the run: no bit depends on the block,
// the batch, the place in a buffer or the length of the cache.
#pragma once
#include "ops/attention/cuda_hopper_copies.cuh"
#include "ops/attention/cuda_hopper_sums.cuh"

namespace infinity::cuda {
namespace {

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
  // What is asked for between them is a turn, where there are two groups. The first begins; both have as many.
  __device__ __forceinline__ void beginTurn() {
    if constexpr (G::kGroups == 1) return;
    waitBarrier(block.turns(group), turn);
    turn ^= 1;
  }
  __device__ __forceinline__ void endTurn() const {
    if constexpr (G::kGroups == 2) release(block.turns(1 - group));
  }
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
    holdWords(weights);
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
  __device__ __forceinline__ void sumRun(const KeyRun& run, int tiles, const int (&stop)[2], bool last, float perScore,
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

template <class G>
__device__ __forceinline__ void multiplyUnits(const AttentionBlock<G>& block, const WarpgroupAttention& f) {
  const int thread = static_cast<int>(threadIdx.x) - kWarpgroup, warp = thread / kWarp, group = thread / kWarpgroup;
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
        const int at = ownRow + half * 8 + laneRow();
        const KeyRange row = rows[at];
        stop[half] = row.start == run.begin && !row.empty() ? row.end : 0;
        if (unit.first + at >= f.shape.queries) stop[half] = INT_MAX;  // nobody looks at it
      }
      WarpgroupSoftmax<G> softmax;
      softmax.begin(bounded);
      products.sumRun(run, runs.tiles(run), stop, next.end == 0, f.perScore, softmax);
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
  // Three warpgroups share 504 of the 512 registers that four would have, and the copying one needs few. Two have as
  // many as instructions can name.
  if (thread < kWarpgroup) {
    if constexpr (G::kGroups == 2) giveRegisters<40>();
    if (thread < kWarp) {
      if (thread == 0) {
        prefetchTensorMap(mapQ);
        prefetchTensorMap(mapK);
        prefetchTensorMap(mapV);
      }
      copyUnits<G>(block, mapQ, mapK, mapV, f);
    }
  } else {
    if constexpr (G::kGroups == 2) takeRegisters<232>();
    multiplyUnits<G>(block, f);
  }
#else
  __trap();  // decided for compute capability 9.0 alone
#endif
}

}  // namespace
}  // namespace infinity::cuda
