// Matrix products: described by their shape, cut by one pure function, launched by gemm.cuh.
//
// out(m, n) = epilogue(Σₖ A(m, k)·B(n, k)). A product may have parts of one shape side by side (the four phases of an
// upsampling convolution), and its sum may be cut into splits, whose partial results a second kernel adds in order.
// Every tile adds in the same order, k upwards: which one is taken changes no bit.
#pragma once
#include <cstdio>

#include "cuda/launch.h"

namespace infinity::cuda {

struct ProductShape {
  int64_t rows, columns, sums;
  int64_t parts = 1;
  int64_t together = 1;         // rows that belong into one tile
  int64_t columnsTogether = 1;  // columns, likewise
};

// What a block computes, and how. A unit is a thread where products are plain multiply-adds (f32) and a warp where they
// are fragments (bf16).
struct TileFacts {
  int rows, columns, depth;  // depth: terms of the sum that are in shared memory at a time
  int stages;                // of them, in flight
  int threads;
  uint32_t sharedBytes;
  double rate;  // multiply-adds a clock, relative: reads of shared memory for each decide it
  const char* why;
};

enum class TileUse { large, medium, small, fewRows, fewColumns };
constexpr const char* tileReason(TileUse use) {
  switch (use) {
    case TileUse::large:
      return "many tiles: fewest reads for each multiply-add";
    case TileUse::medium:
      return "enough tiles for every multiprocessor";
    case TileUse::small:
      return "few tiles: smaller ones occupy more multiprocessors";
    case TileUse::fewRows:
      return "few rows: the weights are streamed by many blocks";
    case TileUse::fewColumns:
      return "few columns: the rows are streamed by many blocks";
  }
  return "";
}

// Multiply-adds of f32 on registers: each thread has unitRows × unitColumns sums; two stages of shared memory.
template <TileUse Use, int Rows, int Columns, int Depth, int UnitRows, int UnitColumns, int BlocksPerProcessor>
struct TileF32 {
  static constexpr int kRows = Rows, kColumns = Columns, kDepth = Depth, kUnitRows = UnitRows,
                       kUnitColumns = UnitColumns, kStages = 2, kBlocks = BlocksPerProcessor;
  static constexpr int kThreads = Rows / UnitRows * (Columns / UnitColumns);
  static constexpr int kPad = 4;  // floats: transposing stores meet no bank twice
  static constexpr TileFacts facts() {
    return {Rows,
            Columns,
            Depth,
            kStages,
            kThreads,
            kStages * Depth * (Rows + Columns + 2 * kPad) * 4,
            static_cast<double>(UnitRows * UnitColumns) / (UnitRows * UnitColumns + 2 * (UnitRows + UnitColumns)),
            tileReason(Use)};
  }
};

// bf16 fragments: each warp has unitRows × unitColumns sums; asynchronous copies fill `Stages` stages.
template <TileUse Use, int Rows, int Columns, int Depth, int Stages, int UnitRows, int UnitColumns>
struct TileBf16 {
  static constexpr int kRows = Rows, kColumns = Columns, kDepth = Depth, kStages = Stages, kUnitRows = UnitRows,
                       kUnitColumns = UnitColumns;
  static constexpr int kThreads = Rows / UnitRows * (Columns / UnitColumns) * 32;
  static constexpr uint32_t kSharedBytes = Stages * Depth * (Rows + Columns) * 2;
  static constexpr TileFacts facts() {
    return {Rows,
            Columns,
            Depth,
            Stages,
            kThreads,
            kSharedBytes,
            static_cast<double>(UnitRows * UnitColumns) / (UnitRows * UnitColumns + 16 * (UnitRows + UnitColumns)),
            tileReason(Use)};
  }
};

// bf16 by Hopper's warpgroups (gemm_hopper.cuh): one of three copies, each of the other two has 64 × unitColumns sums.
// In shared memory: stages of operands, a slab of each warp's sums for the epilogue, barriers, and ones for row sums.
template <TileUse Use, int Rows, int Columns, int Stages>
struct TileWarpgroups {
  static constexpr int kRows = Rows, kColumns = Columns, kDepth = 64, kStages = Stages, kUnitRows = 64;
  static constexpr int kUnitColumns = Columns / (2 * kUnitRows / Rows);
  static constexpr int kThreads = 3 * 128, kComputingWarps = 8;
  static constexpr int kSlabRows = 16, kSlabColumns = 32, kSlabPitch = kSlabColumns + 8;
  static constexpr int kStageBytes = kDepth * (Rows + Columns) * 2, kSlabBytes = kSlabRows * kSlabPitch * 4;
  static constexpr int kOnesBytes = 256, kBarrierBytes = 2 * Stages * 8;
  // Stages begin at a multiple of 1024 bytes, dynamic shared memory at one of 128.
  static constexpr uint32_t kSharedBytes =
      1024 - 128 + Stages * kStageBytes + kComputingWarps * kSlabBytes + kOnesBytes + kBarrierBytes;
  static_assert(Rows == kUnitRows || Rows == 2 * kUnitRows, "two warpgroups, one above or beside the other");
  static constexpr TileFacts facts() {
    return {Rows,
            Columns,
            kDepth,
            Stages,
            kThreads,
            kSharedBytes,
            static_cast<double>(Rows * Columns) / (Rows * Columns + 32 * (Rows + Columns)),
            tileReason(Use)};
  }
};

template <class... T>
struct TileList {
  static constexpr int kCount = sizeof...(T);
  static constexpr TileFacts kFacts[] = {T::facts()...};
  // Calls f(T{}) with the tile of that index.
  template <class F>
  static void with(int index, const F& f) {
    int i = 0;
    ((i++ == index ? f(T{}) : void()), ...);
  }
};

using TilesF32 =
    TileList<TileF32<TileUse::large, 128, 128, 8, 8, 8, 2>, TileF32<TileUse::small, 64, 64, 8, 8, 4, 4>,
             TileF32<TileUse::fewRows, 16, 32, 64, 2, 2, 4>, TileF32<TileUse::fewColumns, 128, 16, 16, 4, 4, 4>>;
using TilesBf16 =
    TileList<TileBf16<TileUse::large, 128, 256, 64, 3, 64, 64>, TileBf16<TileUse::medium, 128, 128, 64, 3, 64, 64>,
             TileBf16<TileUse::small, 64, 64, 64, 4, 32, 32>, TileBf16<TileUse::fewRows, 16, 32, 64, 8, 16, 16>,
             TileBf16<TileUse::fewColumns, 128, 16, 64, 4, 32, 16>>;
// For gradients, whose operands come in boxes of 64 columns, each for one warpgroup; and for forward products.
using TilesWarpgroupsWide =
    TileList<TileWarpgroups<TileUse::large, 128, 256, 4>, TileWarpgroups<TileUse::medium, 128, 128, 6>,
             TileWarpgroups<TileUse::small, 128, 64, 8>>;
using TilesWarpgroups =
    TileList<TileWarpgroups<TileUse::large, 128, 256, 4>, TileWarpgroups<TileUse::medium, 128, 128, 6>,
             TileWarpgroups<TileUse::small, 128, 64, 8>, TileWarpgroups<TileUse::fewRows, 64, 64, 12>>;

struct ProductPlan {
  TileFacts tile;
  int index;  // of the tile in its list
  int64_t blocks;
  int splits;
  int64_t splitLength;  // terms of the sum in each but the last, which may have fewer
};

// Into how many pieces a long sum over few outputs is cut. A function of the sum's length and of the gradient's shape,
// not of the device: a gradient has the same bits everywhere.
inline int splitsOf(const ProductShape& s) {
  constexpr int64_t kTile = 128, kLeastTerms = 512, kWantedBlocks = 264;
  const int64_t tiles = ceilDiv(s.rows, kTile) * ceilDiv(s.columns, kTile) * s.parts;
  const int64_t wanted = kWantedBlocks / tiles, most = s.sums / kLeastTerms;
  const int64_t splits = wanted < most ? wanted : most;
  return splits < 1 ? 1 : static_cast<int>(splits);
}

// A sum in so many splits, each of whole steps: fewer where the steps are fewer.
struct SumPieces {
  int count;
  int64_t length;
};
inline SumPieces piecesOf(const ProductShape& s, int splits) {
  constexpr int64_t kStep = 64;  // every depth divides it
  const int64_t length = ceilDiv(ceilDiv(s.sums, splits), kStep) * kStep;
  return {s.sums > 0 ? static_cast<int>(ceilDiv(s.sums, length)) : 1, length};
}

// The tile with which the busiest multiprocessor has the least to do.
template <class Tiles>
ProductPlan planProduct(const ProductShape& s, const DeviceFacts& device, int splits = 1) {
  const SumPieces pieces = piecesOf(s, splits);
  ProductPlan best = {};
  double least = 0;
  for (int i = 0; i < Tiles::kCount; ++i) {
    const TileFacts& tile = Tiles::kFacts[i];
    if (tile.sharedBytes > device.sharedBytes || tile.rows % s.together != 0 || tile.columns % s.columnsTogether != 0)
      continue;
    const int64_t blocks = ceilDiv(s.rows, tile.rows) * ceilDiv(s.columns, tile.columns) * s.parts * pieces.count;
    const double work = ceilDiv(blocks, device.processors) * (tile.rows * tile.columns / tile.rate);
    if (best.blocks == 0 || work < least) {
      best = {tile, i, blocks, pieces.count, pieces.length};
      least = work;
    }
  }
  return best;
}

// "128x256x64 in 3 stages, 256 threads, 512 blocks, 1 split of 2048: many tiles: …"
inline int describe(const ProductPlan& p, char* to, size_t room) {
  return std::snprintf(to, room, "%dx%dx%d in %d stages, %d threads, %lld blocks, %d split%s of %lld: %s", p.tile.rows,
                       p.tile.columns, p.tile.depth, p.tile.stages, p.tile.threads, static_cast<long long>(p.blocks),
                       p.splits, p.splits == 1 ? "" : "s", static_cast<long long>(p.splitLength), p.tile.why);
}

}  // namespace infinity::cuda
