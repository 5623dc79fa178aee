// Products of bf16 by Hopper's warpgroups, accumulated in float. Blocks stay and take one tile after another. One
// warpgroup of a block copies operands into a ring of stages, boxes of 64 terms of the sum; the other two multiply and
// finish the tile, while the ring fills for the next. The epilogues are those of gemm_bf16.cuh.
//
// Every tile adds 16 terms an instruction, upwards: which tile is taken changes no bit.
#pragma once
#include <type_traits>

#include "cuda/hopper.cuh"
#include "cuda/moments.cuh"
#include "cuda/operands.cuh"
#include "cuda/product.h"
#include "cuda/reduce.cuh"

namespace infinity::cuda {

constexpr int kBulkDepth = 64;  // terms of a box: a row of 128 bytes, or that many rows

// One operand of a stage: rows × 64 terms. Where its neighbours run along the sum it is one box, a row of 128 bytes
// each; where they run along the rows it is a box of 64 terms for every 64 rows.
template <int Rows, bool SumFast>
struct BulkOperand {
  static constexpr int kBytes = Rows * kBulkDepth * 2, kAcross = static_cast<int>(kBoxInner);
  static constexpr int kBoxBytes = kBulkDepth * kSwizzleBytes;  // where there are several

  __device__ __forceinline__ static void copy(unsigned char* to, const TensorMap& map, uint64_t* barrier, int row,
                                              int term) {
    if constexpr (SumFast) {
      copyBox(to, map, barrier, term, row);
    } else {
      static_assert(Rows % kAcross == 0, "whole boxes");
#pragma unroll
      for (int r = 0; r < Rows; r += kAcross) copyBox(to + r / kAcross * kBoxBytes, map, barrier, row + r, term);
    }
  }
  // Names the rows from `row` on, 16 terms from k on, of the operand that lies at `address`.
  __device__ __forceinline__ static uint64_t descriptor(uint32_t address, int row, int k) {
    if constexpr (SumFast)  // the first distance is not used
      return matrixDescriptor(address + row * kSwizzleBytes + k * 2, 16, kSwizzleRepeat, MatrixSwizzle::bytes128);
    else
      return matrixDescriptor(address + row / kAcross * kBoxBytes + k * kSwizzleBytes, kBoxBytes, kSwizzleRepeat,
                              MatrixSwizzle::bytes128);
  }
};

template <class Tile, bool SumFastA, bool SumFastB, class Epilogue>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    productWarpgroups(const __grid_constant__ TensorMap mapA, const __grid_constant__ TensorMap mapB,
                      const Epilogue epilogue, const ProductGrid grid) {
#if defined(INFINITY_HOPPER)
  using OperandA = BulkOperand<Tile::kRows, SumFastA>;
  using OperandB = BulkOperand<Tile::kColumns, SumFastB>;
  constexpr int N = Tile::kUnitColumns, kTerms = 16, kStages = Tile::kStages;
  constexpr int across = Tile::kColumns / N;
  static_assert(SumFastB || N % OperandB::kAcross == 0, "a warpgroup multiplies whole boxes");
  static_assert(!Epilogue::kRowSums || across == 1, "one warpgroup has all columns of a row");

  unsigned char* const memory = dynamicShared<unsigned char>();
  unsigned char* const stages = memory + (0u - sharedAddress(memory)) % kSwizzleRepeat;
  float* const slabs = reinterpret_cast<float*>(stages + kStages * Tile::kStageBytes);
  unsigned char* const ones = reinterpret_cast<unsigned char*>(slabs) + Tile::kComputingWarps * Tile::kSlabBytes;
  uint64_t* const full = reinterpret_cast<uint64_t*>(ones + Tile::kOnesBytes);
  uint64_t* const empty = full + kStages;

  const int thread = static_cast<int>(threadIdx.x), group = thread / kWarpgroup;
  if (thread == 0) {
    for (int s = 0; s < kStages; ++s) {
      initBarrier(full + s, 1);
      initBarrier(empty + s, Tile::kComputingWarps);
    }
    publishBarriers();
  }
  if constexpr (Epilogue::kRowSums) {
    constexpr uint32_t kTwoOnes = 0x3f803f80;
    if (thread < Tile::kOnesBytes / 4) reinterpret_cast<uint32_t*>(ones)[thread] = kTwoOnes;
    publishToAsync();
  }
  __syncthreads();

  const int tiles = grid.rowTiles * grid.columnTiles, all = tiles * grid.splits;
  const auto workOf = [&](int item) { return tileWork(grid, item % tiles, item / tiles, Tile::kRows, Tile::kColumns); };
  const auto stepsOf = [](const BlockWork& work) { return (work.last - work.first + Tile::kDepth - 1) / Tile::kDepth; };
  RingPlace<kStages> place;

  // Three warpgroups share 504 of the 512 registers that four would have, and the copying one needs few.
  if (group == 0) {
    giveRegisters<40>();
    if (thread == 0) {
      prefetchTensorMap(mapA);
      prefetchTensorMap(mapB);
      for (int item = static_cast<int>(blockIdx.x); item < all; item += static_cast<int>(gridDim.x)) {
        const BlockWork work = workOf(item);
        for (int step = 0, steps = stepsOf(work); step < steps; ++step, place.advance()) {
          unsigned char* const stage = stages + place.stage * Tile::kStageBytes;
          uint64_t* const come = full + place.stage;
          const int term = work.first + step * Tile::kDepth;
          waitBarrier(empty + place.stage, place.parity ^ 1);
          arriveExpecting(come, Tile::kStageBytes);
          OperandA::copy(stage, mapA, come, work.row, term);
          OperandB::copy(stage + OperandA::kBytes, mapB, come, work.column, term);
        }
      }
    }
  } else {
    takeRegisters<232>();
    const int unit = group - 1, warp = thread / kWarp - kWarpgroup / kWarp, lane = thread % kWarp;
    const int unitRow = unit / across * Tile::kUnitRows, unitColumn = unit % across * N;
    __shared__ RowFact allFacts[Epilogue::kRowFacts ? Tile::kComputingWarps : 1][Tile::kSlabRows];
    RowFact* const rowFacts = allFacts[Epilogue::kRowFacts ? warp : 0];
    constexpr int kFactSteps = MeasuredRows::kLanes * Tile::kSlabRows / kWarp;
    float sum[N / 2] = {}, rowSum[4] = {};
    const uint64_t onesMatrix = matrixDescriptor(sharedAddress(ones), 128, 256, MatrixSwizzle::none);
    const auto release = [&](int stage) {
      if (lane == 0) arrive(empty + stage);
    };
    const auto firstRowOf = [&](const BlockWork& work) { return work.row + unitRow + warp % 4 * Tile::kSlabRows; };
    const auto workOutFacts = [&](int step, const BlockWork& work) {
      if constexpr (Epilogue::kRowFacts) {
        constexpr int kAtOnce = Tile::kSlabRows / kFactSteps;
        const int first = step * kAtOnce;
        epilogue.rows.template facts<kAtOnce, kWarp>(lane, firstRowOf(work) + first, rowFacts + first);
      }
    };
    for (int item = static_cast<int>(blockIdx.x); item < all; item += static_cast<int>(gridDim.x)) {
      const BlockWork work = workOf(item);
      int before = 0;
      for (int step = 0, steps = stepsOf(work); step < steps; ++step, place.advance()) {
        const uint32_t stage = sharedAddress(stages) + place.stage * Tile::kStageBytes;
        waitBarrier(full + place.stage, place.parity);
        holdSums(sum);
        openProducts();
#pragma unroll
        for (int k = 0; k < Tile::kDepth; k += kTerms) {
          const uint64_t left = OperandA::descriptor(stage, unitRow, k);
          const uint64_t right = OperandB::descriptor(stage + OperandA::kBytes, unitColumn, k);
          multiply<N, !SumFastA, !SumFastB>(sum, left, right, step > 0 || k > 0);
          if constexpr (Epilogue::kRowSums) multiply<8, !SumFastA, false>(rowSum, left, onesMatrix, step > 0 || k > 0);
        }
        commitProducts();
        // A few rows a step, while it is multiplied.
        if (step < kFactSteps) workOutFacts(step, work);
        // The products of the step before are done, those of this one go on.
        waitProducts<1>();
        if (step > 0) release(before);
        before = place.stage;
      }
      waitProducts<0>();
      for (int step = stepsOf(work); step < kFactSteps; ++step) workOutFacts(step, work);
      holdSums(sum);
      if constexpr (Epilogue::kRowSums) holdSums(rowSum);
      release(before);

      // Through shared memory, sixteen rows of a warp and 32 columns at a time: lanes leave with neighbours of one row.
      constexpr int kPitch = Tile::kSlabPitch, W = 4, lanesOfRow = Tile::kSlabColumns / W;
      float* const slab = slabs + warp * Tile::kSlabRows * kPitch;
      const int line = lane / 4, pairOf = lane % 4 * 2;
      const int firstRow = firstRowOf(work);
      const auto finish = selectEpilogue(epilogue, work, RowFacts{rowFacts, firstRow});
#pragma unroll
      for (int c = 0; c < N; c += Tile::kSlabColumns) {
#pragma unroll
        for (int j = 0; j < Tile::kSlabColumns; j += 8) {
          const float* d = sum + (c + j) / 2;
          storePack(slab + line * kPitch + j + pairOf, Pack<float, 2>{{d[0], d[1]}});
          storePack(slab + (line + 8) * kPitch + j + pairOf, Pack<float, 2>{{d[2], d[3]}});
        }
        __syncwarp();
#pragma unroll
        for (int r = 0; r < Tile::kSlabRows; r += kWarp / lanesOfRow) {
          const int ofSlab = r + lane / lanesOfRow, ofUnit = lane % lanesOfRow * W;
          const int row = firstRow + ofSlab, column = work.column + unitColumn + c + ofUnit;
          if (row < grid.rows && column < grid.columns) {
            Pack<float, W> out = loadPack<W>(slab + ofSlab * kPitch + ofUnit);
            finish(row, column, out.v);
            if constexpr (Epilogue::kRowMoments) storePack(slab + ofSlab * kPitch + ofUnit, out);
          }
        }
        __syncwarp();
        if constexpr (Epilogue::kRowMoments) {
          static_assert(Tile::kSlabColumns % kMomentRun == 0, "a slab has whole runs");
          const auto at = [&](int r, int c) { return slab + r * kPitch + c; };
          leaveRowMoments<Tile::kSlabRows, Tile::kSlabColumns, kWarp>(
              finish, lane, firstRow, work.column + unitColumn + c, grid.rows, grid.columns, at);
          __syncwarp();
        }
      }
      if constexpr (Epilogue::kRowSums) {
        if (work.firstColumns && lane % 4 == 0) {
          if (firstRow + line < grid.rows) finish.rowSum(firstRow + line, rowSum[0]);
          if (firstRow + line + 8 < grid.rows) finish.rowSum(firstRow + line + 8, rowSum[2]);
        }
      }
    }
  }
#else
  __trap();  // planned for compute capability 9.0 alone
#endif
}

// The tensor map of an operand, in boxes as a stage of so many rows has them.
template <bool SumFast>
bool mapOperand(TensorMap& map, const bf16* data, int64_t rows, int64_t sums, int stageRows) {
  return encodeTensorMap(map, data, static_cast<uint64_t>(SumFast ? sums : rows),
                         static_cast<uint64_t>(SumFast ? rows : sums),
                         static_cast<uint32_t>(SumFast ? stageRows : kBulkDepth));
}

template <class LoaderB>
using WarpgroupTilesFor = std::conditional_t<LoaderB::kSumFast, TilesWarpgroups, TilesWarpgroupsWide>;

// out = epilogue(Σₖ A(m, k)·B(n, k)), planned with WarpgroupTilesFor<LoaderB>; A and B are MatrixRows or MatrixColumns
// of bf16, 16-byte aligned with rows of whole 16 bytes, and their sums are not empty.
template <class LoaderA, class LoaderB, class Epilogue>
void launchWarpgroups(const KernelArgs& args, const char* name, const ProductShape& shape, const ProductPlan& plan,
                      const LoaderA& a, const LoaderB& b, const Epilogue& epilogue) {
  if (shape.rows == 0 || shape.columns == 0) return;
  const ProductGrid grid = gridOf(shape, plan);
  TensorMap mapA, mapB;
  if (!mapOperand<LoaderA::kSumFast>(mapA, a.data, shape.rows, shape.sums, plan.tile.rows) ||
      !mapOperand<LoaderB::kSumFast>(mapB, b.data, shape.columns, shape.sums, plan.tile.columns)) {
    if (args.failure->code) return;
    args.failure->code = "DEVICE_UNAVAILABLE";
    std::snprintf(args.failure->message, sizeof args.failure->message,
                  "The driver makes no tensor maps for the operands of '%s', %lld x %lld x %lld.", name,
                  static_cast<long long>(shape.rows), static_cast<long long>(shape.columns),
                  static_cast<long long>(shape.sums));
    return;
  }
  const int64_t blocks = plan.blocks < args.device->processors ? plan.blocks : args.device->processors;
  const LaunchShape launchShape = {dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(plan.tile.threads)),
                                   plan.tile.sharedBytes};
  WarpgroupTilesFor<LoaderB>::with(plan.index, [&](auto tile) {
    launch(args, name, productWarpgroups<decltype(tile), LoaderA::kSumFast, LoaderB::kSumFast, Epilogue>, launchShape,
           mapA, mapB, epilogue, grid);
  });
}

}  // namespace infinity::cuda
