// Products of bf16 in fragments of a warp, accumulated in float. Asynchronous copies keep kStages − 1 stages of
// operands on their way; a stage lies in shared memory as its operand does in memory, its 16-byte chunks permuted so
// that eight rows of a matrix meet every bank once.
#pragma once
#include "cuda/mma.cuh"
#include "cuda/moments.cuh"
#include "cuda/operands.cuh"
#include "cuda/reduce.cuh"

namespace infinity::cuda {

template <int Rows, int Depth, int Threads, class Loader>
struct CopiedOperand {
  static constexpr int kWidth = kChunk<bf16>, kElements = Rows * Depth;
  static constexpr int kAlong = (Loader::kSumFast ? Depth : Rows) / kWidth;  // chunks of a line of shared memory
  static constexpr int kChunks = kElements / kWidth, kEach = (kChunks + Threads - 1) / Threads;
  static constexpr int kLines = !Loader::kSumFast && Threads % kAlong == 0 ? 1 : kEach;  // a thread may stay at one m

  typename Loader::Line line[kLines];

  // Where the chunk that holds (m, k) lies in a stage.
  __device__ __forceinline__ static int offset(int m, int k) {
    constexpr int linesOfBanks = kAlong < 8 ? 8 / kAlong : 1, mask = kAlong < 8 ? kAlong - 1 : 7;
    const int line = Loader::kSumFast ? m : k, chunk = (Loader::kSumFast ? k : m) / kWidth;
    return (line * kAlong + (chunk ^ (line / linesOfBanks & mask))) * kWidth;
  }
  __device__ __forceinline__ static bool place(int i, int& m, int& k) {
    const int id = static_cast<int>(threadIdx.x) + i * Threads;
    (Loader::kSumFast ? k : m) = id % kAlong * kWidth;
    (Loader::kSumFast ? m : k) = id / kAlong;
    return kChunks % Threads == 0 || id < kChunks;
  }
  __device__ __forceinline__ void open(const Loader& from, int row) {
    int m, k;
#pragma unroll
    for (int i = 0; i < kLines; ++i) {
      place(i, m, k);
      line[i] = from.line(row + m);
    }
  }
  __device__ __forceinline__ void copy(const Loader& from, int row, int term, bf16* stage) const {
    int m, k;
    if (from.whole) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (!place(i, m, k)) continue;
        const bf16* p = from.at(line[i % kLines], term + k);
        copyAsync16(stage + offset(m, k), p ? p : from.data, p != nullptr);
      }
    } else {
#pragma unroll 1
      for (int i = 0; i < kEach; ++i) {
        if (!place(i, m, k)) continue;
        bf16* to = stage + offset(m, k);
        gatherChunk<kWidth>(from, row + m, term + k, [&](int e, bf16 x) { to[e] = x; });
      }
    }
  }
  // Four 8×8 matrices: the lane's row of them is in matrix (blockM, blockK), each 0 or 1, of the 16×16 block at (m, k).
  __device__ __forceinline__ static void read(const bf16* stage, int m, int k, int blockM, int blockK, int lane,
                                              uint32_t (&to)[4]) {
    if (Loader::kSumFast)
      loadMatrix4(to, stage + offset(m + blockM * 8 + lane % 8, k + blockK * 8));
    else
      loadMatrix4Transposed(to, stage + offset(m + blockM * 8, k + blockK * 8 + lane % 8));
  }
};

template <class Tile, class LoaderA, class LoaderB, class Epilogue>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    productBf16(const LoaderA a, const LoaderB b, const Epilogue epilogue, const ProductGrid grid) {
  constexpr int kFragment = 16, kHalf = 8;  // a fragment of A is 16×16, of B 16×8
  constexpr int MI = Tile::kUnitRows / kFragment, NI = Tile::kUnitColumns / kHalf;
  constexpr int across = Tile::kColumns / Tile::kUnitColumns;
  using CopyA = CopiedOperand<Tile::kRows, Tile::kDepth, Tile::kThreads, LoaderA>;
  using CopyB = CopiedOperand<Tile::kColumns, Tile::kDepth, Tile::kThreads, LoaderB>;
  constexpr int kStageElements = CopyA::kElements + CopyB::kElements;
  bf16* const stages = dynamicShared<bf16>();

  const BlockWork work = blockWork(grid, Tile::kRows, Tile::kColumns);
  const LoaderA fromA = a.select(work.part);
  const LoaderB fromB = b.select(work.part);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int unitRow = warp / across * Tile::kUnitRows, unitColumn = warp % across * Tile::kUnitColumns;

  float sum[MI][NI][4] = {};
  // A times a matrix of ones: every column is the sum of the row. The warps of a row of the tile share its fragments.
  float rowSum[(MI + across - 1) / across][4] = {};
  const auto sumsRows = [&](int i) { return Epilogue::kRowSums && work.firstColumns && i % across == warp % across; };

  CopyA copyA;
  CopyB copyB;
  copyA.open(fromA, work.row);
  copyB.open(fromB, work.column);
  const auto copyStage = [&](int step, int stage) {
    const int term = work.first + step * Tile::kDepth;
    if (term < work.last) {
      copyA.copy(fromA, work.row, term, stages + stage * kStageElements);
      copyB.copy(fromB, work.column, term, stages + stage * kStageElements + CopyA::kElements);
    }
    commitCopies();
  };
  const int steps = (work.last - work.first + Tile::kDepth - 1) / Tile::kDepth;
  for (int s = 0; s < Tile::kStages - 1; ++s) copyStage(s, s);
  // While the copies are on their way.
  __shared__ RowFact rowFacts[Epilogue::kRowFacts ? Tile::kRows : 1];
  if constexpr (Epilogue::kRowFacts)
    epilogue.rows.template facts<Tile::kRows, Tile::kThreads>(static_cast<int>(threadIdx.x), work.row, rowFacts);

  int now = 0, next = Tile::kStages - 1;
  for (int step = 0; step < steps; ++step) {
    waitCopies<Tile::kStages - 2>();
    __syncthreads();
    copyStage(step + Tile::kStages - 1, next);
    const bf16* stageA = stages + now * kStageElements;
    const bf16* stageB = stageA + CopyA::kElements;
#pragma unroll
    for (int k = 0; k < Tile::kDepth; k += kFragment) {
      uint32_t left[MI][4], right[NI][2];
      const int low = lane / 8 % 2, high = lane / 16;
#pragma unroll
      for (int i = 0; i < MI; ++i) CopyA::read(stageA, unitRow + i * kFragment, k, low, high, lane, left[i]);
#pragma unroll
      for (int j = 0; j < NI; j += 2) {
        uint32_t pair[4];
        CopyB::read(stageB, unitColumn + j * kHalf, k, high, low, lane, pair);
        right[j][0] = pair[0], right[j][1] = pair[1];
        right[j + 1][0] = pair[2], right[j + 1][1] = pair[3];
      }
#pragma unroll
      for (int i = 0; i < MI; ++i)
#pragma unroll
        for (int j = 0; j < NI; ++j) mma(sum[i][j], left[i], right[j]);
#pragma unroll
      for (int i = 0; i < MI; ++i) {
        constexpr uint32_t kOnes = 0x3f803f80;
        if (sumsRows(i)) mma(rowSum[i / across], left[i], {kOnes, kOnes});
      }
    }
    now = now + 1 == Tile::kStages ? 0 : now + 1;
    next = next + 1 == Tile::kStages ? 0 : next + 1;
  }
  waitCopies<0>();
  __syncthreads();

  // Through shared memory, sixteen rows of a warp at a time: each lane leaves with neighbours of one row.
  constexpr int kPitch = Tile::kUnitColumns + 8, W = 4, lanesOfRow = Tile::kUnitColumns / W;
  static_assert(Tile::kThreads / kWarp * kFragment * kPitch * sizeof(float) <= Tile::kSharedBytes, "fits");
  constexpr int kSlabElements = kFragment * kPitch;
  float* const slab = reinterpret_cast<float*>(stages) + warp * kSlabElements;
  const auto finish = selectEpilogue(epilogue, work, RowFacts{rowFacts, work.row});
  const int group = lane / 4, pairOf = lane % 4 * 2;
  constexpr bool kMoments = Epilogue::kMoments && Tile::kUnitRows % kMomentRun == 0;
  constexpr int kOwnColumns = (Tile::kUnitColumns + kWarp - 1) / kWarp;
  [[maybe_unused]] RunMoments moments[kOwnColumns] = {};
  // Neighbouring warps share runs that are wider than their columns.
  constexpr bool kRowMoments = Epilogue::kRowMoments && Tile::kColumns % kMomentRun == 0;
  constexpr int kSharing = Tile::kUnitColumns < kMomentRun ? kMomentRun / Tile::kUnitColumns : 1;
#pragma unroll
  for (int i = 0; i < MI; ++i) {
    const int firstRow = work.row + unitRow + i * kFragment;
#pragma unroll
    for (int j = 0; j < NI; ++j) {
      storePack(slab + group * kPitch + j * kHalf + pairOf, Pack<float, 2>{{sum[i][j][0], sum[i][j][1]}});
      storePack(slab + (group + 8) * kPitch + j * kHalf + pairOf, Pack<float, 2>{{sum[i][j][2], sum[i][j][3]}});
    }
    __syncwarp();
#pragma unroll
    for (int r = 0; r < kFragment; r += kWarp / lanesOfRow) {
      const int ofSlab = r + lane / lanesOfRow, ofUnit = lane % lanesOfRow * W;
      const int row = firstRow + ofSlab, column = work.column + unitColumn + ofUnit;
      if (row < grid.rows && column < grid.columns) {
        Pack<float, W> out = loadPack<W>(slab + ofSlab * kPitch + ofUnit);
        finish(row, column, out.v);
        if constexpr (kMoments || kRowMoments) storePack(slab + ofSlab * kPitch + ofUnit, out);
      }
    }
    __syncwarp();
    if constexpr (kRowMoments) {
      const int first = warp % kSharing;
      const auto at = [&](int r, int c) {
        return slab + (c / Tile::kUnitColumns - first) * kSlabElements + r * kPitch + c % Tile::kUnitColumns;
      };
      if constexpr (kSharing > 1) __syncthreads();
      leaveRowMoments<kFragment, Tile::kUnitColumns * kSharing, kWarp * kSharing>(
          finish, first * kWarp + lane, firstRow, work.column + unitColumn - first * Tile::kUnitColumns, grid.rows,
          grid.columns, at);
      if constexpr (kSharing > 1)
        __syncthreads();
      else
        __syncwarp();
    }
    if constexpr (kMoments) {
      const bool starts = i * kFragment % kMomentRun == 0, ends = (i + 1) * kFragment % kMomentRun == 0;
#pragma unroll
      for (int c = 0; c < kOwnColumns; ++c) {
        const int ofUnit = c * kWarp + lane, column = work.column + unitColumn + ofUnit;
        if (ofUnit >= Tile::kUnitColumns || firstRow >= grid.rows || column >= grid.columns) continue;
#pragma unroll
        for (int r = 0; r < kFragment; ++r) moments[c].add(slab[r * kPitch + ofUnit], starts && r == 0);
        if (ends) finish.moments(firstRow + kFragment - kMomentRun, column, moments[c]);
      }
      __syncwarp();
    }
    if constexpr (Epilogue::kRowSums) {
      if (sumsRows(i) && lane % 4 == 0) {
        if (firstRow + group < grid.rows) finish.rowSum(firstRow + group, rowSum[i / across][0]);
        if (firstRow + group + 8 < grid.rows) finish.rowSum(firstRow + group + 8, rowSum[i / across][2]);
      }
    }
  }
}

}  // namespace infinity::cuda
