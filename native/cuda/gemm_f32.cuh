// Products in f32: every term is a fused multiply-add, so the accuracy is that of a plain sum in f32. Chunks travel
// from memory to registers while the stage before is multiplied, and lie in shared memory as [k][m].
#pragma once
#include "cuda/moments.cuh"
#include "cuda/operands.cuh"

namespace infinity::cuda {

// The block's share of one operand on its way: each thread carries `kEach` chunks.
template <int Rows, int Depth, int Threads, int Pad, class Loader>
struct StagedOperand {
  using Element = typename Loader::Element;
  static constexpr int kWidth = kChunk<float>, kPitch = Rows + Pad;
  static constexpr int kAlong = (Loader::kSumFast ? Depth : Rows) / kWidth;  // chunks side by side in memory
  static constexpr int kChunks = Rows * Depth / kWidth, kEach = (kChunks + Threads - 1) / Threads;
  static constexpr int kLines = !Loader::kSumFast && Threads % kAlong == 0 ? 1 : kEach;  // a thread may stay at one m

  typename Loader::Line line[kLines];
  Pack<Element, kWidth> chunk[kEach];

  // The chunk's place in the tile, and whether it has one.
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
  __device__ __forceinline__ void fetch(const Loader& from, int term) {
    if (!from.whole) return;
    int m, k;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (!place(i, m, k)) continue;
      const Element* p = from.at(line[i % kLines], term + k);
      chunk[i] = p ? loadPack<kWidth>(p) : Pack<Element, kWidth>{};
    }
  }
  // Puts down what was fetched. What is not whole is fetched here.
  __device__ __forceinline__ void store(const Loader& from, int row, int term, float* to) const {
    int m, k;
    if (from.whole) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (!place(i, m, k)) continue;
        Pack<float, kWidth> values;
#pragma unroll
        for (int e = 0; e < kWidth; ++e) values.v[e] = toFloat(chunk[i].v[e]);
        if (!Loader::kSumFast) {
          storePack(to + k * kPitch + m, values);
        } else {
#pragma unroll
          for (int e = 0; e < kWidth; ++e) to[(k + e) * kPitch + m] = values.v[e];
        }
      }
    } else {
#pragma unroll 1
      for (int i = 0; i < kEach; ++i) {
        if (!place(i, m, k)) continue;
        gatherChunk<kWidth>(from, row + m, term + k, [&](int e, Element x) {
          to[Loader::kSumFast ? (k + e) * kPitch + m : k * kPitch + m + e] = toFloat(x);
        });
      }
    }
  }
};

// How `Count` rows (or columns) of a tile belong to `Units` threads: in packs of up to four, a stride apart, so that
// the threads of a warp read shared memory side by side.
template <int Count, int Units>
struct Interleaved {
  static constexpr int kPack = Count < 4 ? Count : 4;
  __device__ __forceinline__ static int at(int unit, int i) {
    return i / kPack * (Units * kPack) + unit * kPack + i % kPack;
  }
  __device__ __forceinline__ static void read(const float* from, int unit, float (&to)[Count]) {
#pragma unroll
    for (int i = 0; i < Count; i += kPack) {
      const Pack<float, kPack> pack = loadPack<kPack>(from + at(unit, i));
#pragma unroll
      for (int e = 0; e < kPack; ++e) to[i + e] = pack.v[e];
    }
  }
};

template <class Tile, class LoaderA, class LoaderB, class Epilogue>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    productF32(const LoaderA a, const LoaderB b, const Epilogue epilogue, const ProductGrid grid) {
  constexpr int TM = Tile::kUnitRows, TN = Tile::kUnitColumns;
  constexpr int across = Tile::kColumns / TN, down = Tile::kRows / TM;
  using StageA = StagedOperand<Tile::kRows, Tile::kDepth, Tile::kThreads, Tile::kPad, LoaderA>;
  using StageB = StagedOperand<Tile::kColumns, Tile::kDepth, Tile::kThreads, Tile::kPad, LoaderB>;
  using OwnRows = Interleaved<TM, down>;
  using OwnColumns = Interleaved<TN, across>;
  __shared__ __align__(16) float sharedA[2][Tile::kDepth * StageA::kPitch];
  __shared__ __align__(16) float sharedB[2][Tile::kDepth * StageB::kPitch];

  const BlockWork work = blockWork(grid, Tile::kRows, Tile::kColumns);
  const LoaderA fromA = a.select(work.part);
  const LoaderB fromB = b.select(work.part);
  const int unitRow = static_cast<int>(threadIdx.x) / across, unitColumn = static_cast<int>(threadIdx.x) % across;

  float sum[TM][TN] = {};
  __shared__ RowFact rowFacts[Epilogue::kRowFacts ? Tile::kRows : 1];
  if constexpr (Epilogue::kRowFacts) {
    epilogue.rows.template facts<Tile::kRows, Tile::kThreads>(static_cast<int>(threadIdx.x), work.row, rowFacts);
    __syncthreads();
  }
  static_assert(TM <= across, "a thread for each row's sum");
  float rowSum = 0;  // of the thread's row number unitColumn
  const bool sumRows = Epilogue::kRowSums && work.firstColumns;
  if (work.first < work.last) {
    StageA stageA;
    StageB stageB;
    stageA.open(fromA, work.row);
    stageB.open(fromB, work.column);
    stageA.fetch(fromA, work.first);
    stageB.fetch(fromB, work.first);
    stageA.store(fromA, work.row, work.first, sharedA[0]);
    stageB.store(fromB, work.column, work.first, sharedB[0]);
    __syncthreads();
    int now = 0;
    for (int term = work.first; term < work.last; term += Tile::kDepth) {
      const int next = term + Tile::kDepth;
      if (next < work.last) {
        stageA.fetch(fromA, next);
        stageB.fetch(fromB, next);
      }
#pragma unroll 2  // more needs more registers than two blocks a multiprocessor leave
      for (int k = 0; k < Tile::kDepth; ++k) {
        float left[TM], right[TN];
        OwnRows::read(sharedA[now] + k * StageA::kPitch, unitRow, left);
        OwnColumns::read(sharedB[now] + k * StageB::kPitch, unitColumn, right);
#pragma unroll
        for (int i = 0; i < TM; ++i)
#pragma unroll
          for (int j = 0; j < TN; ++j) sum[i][j] = fmaf(left[i], right[j], sum[i][j]);
        if (Epilogue::kRowSums && sumRows) {
#pragma unroll
          for (int i = 0; i < TM; ++i)
            if (unitColumn == i) rowSum += left[i];
        }
      }
      if (next < work.last) {
        stageA.store(fromA, work.row, next, sharedA[now ^ 1]);
        stageB.store(fromB, work.column, next, sharedB[now ^ 1]);
      }
      __syncthreads();
      now ^= 1;
    }
  }

  constexpr bool kMoments = Epilogue::kMoments && Tile::kRows % kMomentRun == 0;
  constexpr bool kRowMoments = Epilogue::kRowMoments && Tile::kColumns % kMomentRun == 0;
  const auto finish = selectEpilogue(epilogue, work, RowFacts{rowFacts, work.row});
#pragma unroll
  for (int i = 0; i < TM; ++i) {
    const int row = work.row + OwnRows::at(unitRow, i);
    if (row >= grid.rows) continue;
#pragma unroll
    for (int j = 0; j < TN; j += OwnColumns::kPack) {
      const int column = work.column + OwnColumns::at(unitColumn, j);
      if (column >= grid.columns) continue;
      float out[OwnColumns::kPack];
#pragma unroll
      for (int e = 0; e < OwnColumns::kPack; ++e) out[e] = sum[i][j + e];
      finish(row, column, out);
      if constexpr (kMoments || kRowMoments) {
#pragma unroll
        for (int e = 0; e < OwnColumns::kPack; ++e) sum[i][j + e] = out[e];
      }
    }
    if constexpr (Epilogue::kRowSums) {
      if (sumRows && unitColumn == i) finish.rowSum(row, rowSum);
    }
  }
  if constexpr (kMoments || kRowMoments) {
    // Through shared memory, a slab of rows at a time: each thread goes down a column, or along a run of a row.
    constexpr int kSlab = 16;
    static_assert(kSlab * Tile::kColumns <= Tile::kDepth * StageA::kPitch * 2, "fits");
    static_assert(!kMoments || Tile::kColumns <= Tile::kThreads, "a thread for each column");
    float* const slab = sharedA[0];
    const int ofTile = static_cast<int>(threadIdx.x), column = work.column + ofTile;
    RunMoments moments = {};
#pragma unroll 1
    for (int first = 0; first < Tile::kRows; first += kSlab) {
      __syncthreads();
#pragma unroll
      for (int i = 0; i < TM; ++i) {
        const int ofSlab = OwnRows::at(unitRow, i) - first;
        if (ofSlab < 0 || ofSlab >= kSlab) continue;
#pragma unroll
        for (int j = 0; j < TN; ++j) slab[ofSlab * Tile::kColumns + OwnColumns::at(unitColumn, j)] = sum[i][j];
      }
      __syncthreads();
      if constexpr (kRowMoments) {
        const auto at = [&](int r, int c) { return slab + r * Tile::kColumns + c; };
        leaveRowMoments<kSlab, Tile::kColumns, Tile::kThreads>(finish, ofTile, work.row + first, work.column, grid.rows,
                                                               grid.columns, at);
      }
      if constexpr (kMoments) {
        if (ofTile >= Tile::kColumns || work.row + first >= grid.rows || column >= grid.columns) continue;
#pragma unroll
        for (int r = 0; r < kSlab; ++r)
          moments.add(slab[r * Tile::kColumns + ofTile], r == 0 && first % kMomentRun == 0);
        const int end = first + kSlab;
        if (end % kMomentRun == 0) finish.moments(work.row + end - kMomentRun, column, moments);
      }
    }
  }
}

}  // namespace infinity::cuda
