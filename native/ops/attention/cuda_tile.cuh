// Tiles of attention: rows of a head in shared memory, and a warp's products with them in registers.
//
// A warp owns bands of 16 rows. Of a product with groups of 8 columns its lane l, with g = l / 4 and t = l % 4, holds
// the elements [g][8j + 2t, +1] and [g + 8][8j + 2t, +1] of each group j: the fragments of mma.cuh. f32 keeps the same
// layout, with multiply-adds in the place of the matrix instruction, so that everything between the products is written
// once.
#pragma once
#include <type_traits>

#include "cuda/launch.h"
#include "cuda/math.cuh"
#include "cuda/mma.cuh"
#include "cuda/reduce.cuh"
#include "ops/attention/attention.h"

namespace infinity::cuda {
namespace {

// Exponents of bf16 attention are in units of ln 2, where an exponential is one instruction; those of f32 are natural.
template <class T>
struct Exponent;
template <>
struct Exponent<float> {
  static constexpr float perNatural = 1.0f;
  static __device__ __forceinline__ float of(float x) { return expf(x); }
};
template <>
struct Exponent<bf16> {
  static constexpr float perNatural = 1.4426950408889634f;
  static __device__ __forceinline__ float of(float x) { return exp2Approximate(x); }
};

__device__ __forceinline__ int laneIndex() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warpIndex() { return static_cast<int>(threadIdx.x) / kWarp; }
// Place of a lane's first element in a band and in a group of columns.
__device__ __forceinline__ int laneRow() { return laneIndex() / 4; }
__device__ __forceinline__ int laneColumn() { return laneIndex() % 4 * 2; }

// What a kernel works on at a time: `rows` of one side stay in shared memory, tiles of `columns` rows of the other side
// stream through it. `width` is the head's, padded.
template <class T_, int kWidth, int kWarps, int kBands, int kColumns>
struct Geometry {
  using T = T_;
  static constexpr int width = kWidth, warps = kWarps, bands = kBands, columns = kColumns;
  static constexpr int threads = kWarps * kWarp, bandRows = kBands * 16, rows = kWarps * bandRows;
  // A pack of padding takes the eight rows that are read together to different banks.
  static constexpr int stride = kWidth + kPerPack<T>;
  static constexpr int rowsElements = rows * stride, columnsElements = columns * stride;
  // Of a tile of the bias, either way round.
  static constexpr int biasPadding = 2, biasElements = (rows + biasPadding) * (columns + biasPadding);
  static_assert(kWidth % 16 == 0 && kColumns % 16 == 0 && kWarps > 1,
                "whole fragments, and barriers that are barriers");

  using Scores = float[kBands][kColumns / 8][4];
  using Sums = float[kBands][kWidth / 8][4];

  // What a warp holds of the sums, and where its rows start in the block and its sums in a row.
  using Part = Geometry;
  static constexpr bool together = false;
  static __device__ __forceinline__ int ownRow() { return warpIndex() * bandRows; }
  static __device__ __forceinline__ int ownColumn() { return 0; }
};

__host__ __device__ constexpr int roundUpToPowerOfTwo(int n) {
  int power = 1;
  while (power < n) power *= 2;
  return power;
}

// How heads lie in memory.
struct HeadLayout {
  int64_t channels;  // from one row to the next
  int width;
  bool aligned;  // every row of a head starts and ends on 16 bytes, in all operands
};

// Copies kRows rows of a head, of which `present` exist, to shared memory; what does not exist becomes zeros. Copies
// may be under way on return: commitCopies, waitCopies and a barrier follow.
template <class G, int kRows>
__device__ __forceinline__ void loadRows(typename G::T* tile, const typename G::T* from, const HeadLayout& layout,
                                         int64_t present) {
  using T = typename G::T;
  if (layout.aligned) {
    // A thread keeps its place in the row and goes down: an address is one addition.
    constexpr int kLanes = roundUpToPowerOfTwo(G::width / kPerPack<T>), kStep = G::threads / kLanes;
    static_assert(kRows % kStep == 0, "all threads copy as often");
    const int row = static_cast<int>(threadIdx.x) / kLanes, d = static_cast<int>(threadIdx.x) % kLanes * kPerPack<T>;
    if (d >= G::width) return;
    const int64_t rows = d < layout.width ? present - row : 0;
    const T* source = from + row * layout.channels + d;
    T* to = tile + row * G::stride + d;
#pragma unroll
    for (int i = 0; i < kRows; i += kStep, source += kStep * layout.channels)
      copyAsync16(to + i * G::stride, i < rows ? source : from, i < rows);
  } else {
    for (int i = static_cast<int>(threadIdx.x); i < kRows * G::width; i += G::threads) {
      const int row = i / G::width, d = i % G::width;
      tile[row * G::stride + d] = row < present && d < layout.width ? from[row * layout.channels + d] : T{};
    }
  }
}

// Writes a warp's rows, each multiplied by its factor, through its part of a tile (which no other warp may be using).
template <class G>
__device__ __forceinline__ void storeRows(const typename G::Sums& sums, const float (&factor)[G::bands][2],
                                          typename G::T* tile, typename G::T* to, const HeadLayout& layout,
                                          int64_t present) {
  using T = typename G::T;
  constexpr int kPacks = G::width / kPerPack<T>;
  __syncwarp();
#pragma unroll
  for (int band = 0; band < G::bands; ++band)
#pragma unroll
    for (int j = 0; j < G::width / 8; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float x = sums[band][j][half * 2] * factor[band][half],
                    y = sums[band][j][half * 2 + 1] * factor[band][half];
        T* at = tile + (band * 16 + half * 8 + laneRow()) * G::stride + j * 8 + laneColumn();
        storePack(at, Pack<T, 2>{{fromFloat<T>(x), fromFloat<T>(y)}});
      }
  __syncwarp();
  if (layout.aligned) {
    for (int i = laneIndex(); i < G::bandRows * kPacks; i += kWarp) {
      const int row = i / kPacks, d = i % kPacks * kPerPack<T>;
      if (row < present && d < layout.width)
        storePack(to + row * layout.channels + d, loadPack<kPerPack<T>>(tile + row * G::stride + d));
    }
  } else {
    for (int i = laneIndex(); i < G::bandRows * G::width; i += kWarp) {
      const int row = i / G::width, d = i % G::width;
      if (row < present && d < layout.width) to[row * layout.channels + d] = tile[row * G::stride + d];
    }
  }
}

// scores = rows · columnsᵀ: a warp's rows with all columns of a tile, over the width.
template <class G>
__device__ __forceinline__ void multiplyTransposed(typename G::Scores& scores, const bf16* rows, const bf16* columns) {
  const int lane = laneIndex();
  const bf16* a = rows + lane % 16 * G::stride + lane / 16 * 8;
  const bf16* b = columns + (lane % 8 + lane / 16 * 8) * G::stride + lane / 8 % 2 * 8;
#pragma unroll
  for (int band = 0; band < G::bands; ++band)
#pragma unroll
    for (int j = 0; j < G::columns / 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) scores[band][j][e] = 0;
#pragma unroll
  for (int d = 0; d < G::width; d += 16) {
    uint32_t left[G::bands][4];
#pragma unroll
    for (int band = 0; band < G::bands; ++band) loadMatrix4(left[band], a + band * 16 * G::stride + d);
#pragma unroll
    for (int j = 0; j < G::columns / 8; j += 2) {
      uint32_t right[4];
      loadMatrix4(right, b + j * 8 * G::stride + d);
      const uint32_t even[2] = {right[0], right[1]}, odd[2] = {right[2], right[3]};
#pragma unroll
      for (int band = 0; band < G::bands; ++band) {
        mma(scores[band][j], left[band], even);
        mma(scores[band][j + 1], left[band], odd);
      }
    }
  }
}
template <class G>
__device__ __forceinline__ void multiplyTransposed(typename G::Scores& scores, const float* rows,
                                                   const float* columns) {
  const float* a = rows + laneRow() * G::stride;
  const float* b = columns + laneColumn() * G::stride;
#pragma unroll
  for (int band = 0; band < G::bands; ++band)
#pragma unroll
    for (int j = 0; j < G::columns / 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) scores[band][j][e] = 0;
#pragma unroll 1
  for (int d = 0; d < G::width; d += 4) {
    Pack<float, 4> left[G::bands][2];
#pragma unroll
    for (int band = 0; band < G::bands; ++band)
#pragma unroll
      for (int half = 0; half < 2; ++half) left[band][half] = loadPack<4>(a + (band * 16 + half * 8) * G::stride + d);
#pragma unroll
    for (int j = 0; j < G::columns / 8; ++j) {
      const Pack<float, 4> right[2] = {loadPack<4>(b + j * 8 * G::stride + d),
                                       loadPack<4>(b + (j * 8 + 1) * G::stride + d)};
#pragma unroll
      for (int band = 0; band < G::bands; ++band)
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            scores[band][j][e] = fmaf(left[band][e / 2].v[i], right[e % 2].v[i], scores[band][j][e]);
    }
  }
}

// sums += weights · columns: a warp's weights of all columns of a tile with the rows that stand for these columns.
template <class G>
__device__ __forceinline__ void multiplyAdd(typename G::Sums& sums, const typename G::Scores& weights,
                                            const bf16* columns) {
  const int lane = laneIndex();
  const bf16* b = columns + lane % 16 * G::stride + lane / 16 * 8;
#pragma unroll
  for (int j = 0; j < G::columns / 8; j += 2) {
    uint32_t left[G::bands][4];
#pragma unroll
    for (int band = 0; band < G::bands; ++band)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        left[band][i] = packBf16(weights[band][j + i / 2][i % 2 * 2], weights[band][j + i / 2][i % 2 * 2 + 1]);
#pragma unroll
    for (int d = 0; d < G::width / 8; d += 2) {
      uint32_t right[4];
      loadMatrix4Transposed(right, b + j * 8 * G::stride + d * 8);
      const uint32_t even[2] = {right[0], right[1]}, odd[2] = {right[2], right[3]};
#pragma unroll
      for (int band = 0; band < G::bands; ++band) {
        mma(sums[band][d], left[band], even);
        mma(sums[band][d + 1], left[band], odd);
      }
    }
  }
}
template <class G>
__device__ __forceinline__ void multiplyAdd(typename G::Sums& sums, const typename G::Scores& weights,
                                            const float* columns) {
  // The outer loop takes the weights that one lane of each four holds.
#pragma unroll 1
  for (int source = 0; source < 4; ++source) {
    const float* b = columns + source * 2 * G::stride + laneColumn();
#pragma unroll
    for (int j = 0; j < G::columns / 8; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float left[G::bands][2];
#pragma unroll
        for (int band = 0; band < G::bands; ++band)
#pragma unroll
          for (int half = 0; half < 2; ++half)
            left[band][half] = __shfl_sync(kAllLanes, weights[band][j][half * 2 + e], source, 4);
#pragma unroll
        for (int d = 0; d < G::width / 8; ++d) {
          const Pack<float, 2> right = loadPack<2>(b + (j * 8 + e) * G::stride + d * 8);
#pragma unroll
          for (int band = 0; band < G::bands; ++band)
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[band][d][i] = fmaf(left[band][i / 2], right.v[i % 2], sums[band][d][i]);
        }
      }
  }
}

// scores *= factor, which takes them to the units of Exponent.
template <class G>
__device__ __forceinline__ void scaleScores(typename G::Scores& scores, float factor) {
#pragma unroll
  for (int band = 0; band < G::bands; ++band)
#pragma unroll
    for (int j = 0; j < G::columns / 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) scores[band][j][e] *= factor;
}

// Copies a tile of the bias, kDown rows of kRight elements, to shared memory; beyond `down` and `right` lie zeros. A
// barrier follows.
template <class G, int kDown, int kRight>
__device__ __forceinline__ void loadBias(typename G::T* tile, const typename G::T* from, int64_t ld, int64_t down,
                                         int64_t right) {
  [[maybe_unused]] constexpr int kAtOnce = std::is_same_v<typename G::T, bf16> ? 4 : 2;  // more would spill
#pragma unroll kAtOnce
  for (int i = static_cast<int>(threadIdx.x); i < kDown * kRight; i += G::threads) {
    const int row = i / kRight, column = i % kRight;
    tile[row * (kRight + G::biasPadding) + column] =
        row < down && column < right ? from[row * ld + column] : typename G::T{};
  }
}

// scores += bias, in the units of Exponent, for a warp's rows from a tile [rows][columns], or [columns][rows] where it
// is turned.
template <class G, bool kTurned>
__device__ __forceinline__ void addBias(typename G::Scores& scores, const typename G::T* tile) {
  constexpr int kRow = kTurned ? 1 : G::columns + G::biasPadding, kColumn = kTurned ? G::rows + G::biasPadding : 1;
  tile += (warpIndex() * G::bandRows + laneRow()) * kRow + laneColumn() * kColumn;
#pragma unroll
  for (int band = 0; band < G::bands; ++band)
#pragma unroll
    for (int j = 0; j < G::columns / 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        scores[band][j][e] = fmaf(toFloat(tile[(band * 16 + e / 2 * 8) * kRow + (j * 8 + e % 2) * kColumn]),
                                  Exponent<typename G::T>::perNatural, scores[band][j][e]);
}

}  // namespace
}  // namespace infinity::cuda
