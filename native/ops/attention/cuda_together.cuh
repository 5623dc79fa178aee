// Few rows, and a whole block for them: every warp has the same rows. The warps share out the keys of a tile to make
// its scores, all read them, and each then sums up its own part of the width. A score and a sum are those that one warp
// for the rows would have made, bit for bit: nothing is merged.
#pragma once
#include "ops/attention/cuda_tile.cuh"

namespace infinity::cuda {
namespace {

template <class T_, int kWidth, int kWarps, int kBands, int kColumns>
struct TogetherGeometry : Geometry<T_, kWidth, kWarps, kBands, kColumns> {
  using Base = Geometry<T_, kWidth, kWarps, kBands, kColumns>;
  static constexpr int rows = Base::bandRows, rowsElements = rows * Base::stride;
  static constexpr bool together = true;
  // The columns that a warp makes scores of at a time.
  struct Share : Base {
    static constexpr int columns = 16;
    using Scores = float[kBands][2][4];
  };
  struct Part : Base {
    static constexpr int width = kWidth / kWarps;
    static_assert(width % 16 == 0, "whole fragments");
    using Sums = float[kBands][width / 8][4];
  };
  static __device__ __forceinline__ int ownRow() { return 0; }
  static __device__ __forceinline__ int ownColumn() { return warpIndex() * Part::width; }

  // Scores on their way from warp to warp; the padding takes neighbouring rows to different banks.
  static constexpr int exchangeStride = kColumns + 8, exchangeFloats = rows * exchangeStride;
};

// scores = rows · columnsᵀ, as multiplyTransposed of one warp, made by all. Whoever writes `columns` or calls this
// again waits for a barrier first.
template <class G>
__device__ __forceinline__ void multiplyTransposedTogether(typename G::Scores& scores, const typename G::T* rows,
                                                           const typename G::T* columns,
                                                           float* exchange /* G::exchangeFloats, shared */) {
  using Share = typename G::Share;
  float* const own = exchange + laneRow() * G::exchangeStride + laneColumn();
  for (int first = warpIndex() * Share::columns; first < G::columns; first += G::warps * Share::columns) {
    typename Share::Scores share;
    multiplyTransposed<Share>(share, rows, columns + first * G::stride);
#pragma unroll
    for (int band = 0; band < G::bands; ++band)
#pragma unroll
      for (int j = 0; j < Share::columns / 8; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          storePack(own + (band * 16 + half * 8) * G::exchangeStride + first + j * 8,
                    Pack<float, 2>{{share[band][j][half * 2], share[band][j][half * 2 + 1]}});
  }
  __syncthreads();
#pragma unroll
  for (int band = 0; band < G::bands; ++band)
#pragma unroll
    for (int j = 0; j < G::columns / 8; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const auto pair = loadPack<2>(own + (band * 16 + half * 8) * G::exchangeStride + j * 8);
        scores[band][j][half * 2] = pair.v[0], scores[band][j][half * 2 + 1] = pair.v[1];
      }
}

}  // namespace
}  // namespace infinity::cuda
