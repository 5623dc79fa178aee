// Matrices of which a thread keeps the same few columns and walks down the rows.
#pragma once
#include <initializer_list>

#include "cuda/chunk.cuh"
#include "cuda/launch.h"

namespace infinity::cuda {
namespace {

constexpr int kTileThreads = 256;

// `groups` matrices [rows, cols], one after the other, in blocks of `across` threads side by side, each with one pack
// of columns, and `down` rows at a time.
struct ColumnTiles {
  int64_t groups, rows, perRun, runs;
  int cols, across, down, tiles;  // tiles side by side

  // A block has no more rows than gives its threads four each, unless that would make more than `mostBlocks` a group.
  ColumnTiles(int64_t groups, int64_t rows, int64_t cols, DType type, int64_t mostBlocks = 1 << 30)
      : groups(groups), rows(rows), cols(static_cast<int>(cols)), across(1) {
    const int64_t packs = ceilDiv(cols * static_cast<int64_t>(dtypeBytes(type)), 16);
    while (across < packs && across < kWarp) across *= 2;
    down = kTileThreads / across;
    tiles = static_cast<int>(ceilDiv(packs, across));
    const int64_t mostRuns = mostBlocks > tiles ? mostBlocks / tiles : 1;
    const int64_t trips = ceilDiv(ceilDiv(rows, mostRuns), down);
    perRun = (trips > 4 ? trips : 4) * down;
    runs = ceilDiv(rows, perRun);
  }

  LaunchShape shape() const {
    return {dim3(static_cast<unsigned>(groups * runs * tiles)),
            dim3(static_cast<unsigned>(across), static_cast<unsigned>(down)), 0};
  }
};

// What the block has of it, and the thread's columns.
struct TilePlace {
  int64_t group, run, first, last;  // rows
  int column, left;                 // the thread's first column; columns of the matrix from there on, perhaps none
};

template <int V>
__device__ __forceinline__ TilePlace placeOf(const ColumnTiles& t, unsigned block) {
  const unsigned tiles = static_cast<unsigned>(t.tiles), runs = static_cast<unsigned>(t.runs), run = block / tiles;
  TilePlace p;
  p.column = static_cast<int>(block % tiles * static_cast<unsigned>(t.across) + threadIdx.x) * V;
  p.left = t.cols - p.column;
  p.group = run / runs;
  p.run = run % runs;
  p.first = p.run * t.perRun;
  p.last = p.first + t.perRun < t.rows ? p.first + t.perRun : t.rows;
  return p;
}

inline bool onPacks(int64_t cols, std::initializer_list<TensorView> views) {
  for (const TensorView& v : views)
    if (!rowsOnPacks(v, cols)) return false;
  return true;
}

}  // namespace
}  // namespace infinity::cuda
