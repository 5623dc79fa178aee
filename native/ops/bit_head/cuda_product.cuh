// gaps = x·Wᵀ + b of a few rows, left in shared memory for what follows.
//
// The head has few columns and long rows, so the warps of a block share out its length: every number of x and of the
// head is read by one thread, straight into the registers of its fragment. Partial sums of the warps are added in
// order: a sum depends on the length alone.
#pragma once
#include "cuda/launch.h"
#include "cuda/mma.cuh"
#include "cuda/ragged.cuh"
#include "cuda/reduce.cuh"

namespace infinity::cuda {
namespace {

constexpr int kHeadThreads = 256;
constexpr int kHeadWarps = kHeadThreads / kWarp;

struct HeadOperands {
  const void *x, *w;
  Numbers bias;
  const void* other;  // hidden states of unconditional samples, where there are any
  float guidance;
  int64_t rows;
  int K, D;
};

// guidance · x + (1 − guidance) · other of hidden states: one product serves both.
__device__ __forceinline__ float mix(const HeadOperands& h, float x, float other) {
  return fmaf(h.guidance, x, (1.0f - h.guidance) * other);
}

// How a product lies in shared memory: a slice for each warp; the first one takes the sum.
template <int Rows, int Columns>
struct GapTile {
  static constexpr int rows = Rows, columns = Columns, stride = Columns + 8, slice = Rows * stride;
  static constexpr int floats = kHeadWarps * slice;

  static __device__ __forceinline__ float* row(float* slices, int warp, int r) {
    return slices + warp * slice + r * stride;
  }

  // All threads have written their slices; when this returns all see the sums.
  static __device__ __forceinline__ void total(const HeadOperands& h, int column, float* slices) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < Rows * Columns; i += kHeadThreads) {
      const int r = i / Columns, c = i % Columns;
      float bias[1] = {0};
      if (h.bias && column + c < h.D) h.bias.load(column + c, 1, bias);
      float sum = row(slices, 0, r)[c];
#pragma unroll
      for (int w = 1; w < kHeadWarps; ++w) sum += row(slices, w, r)[c];
      row(slices, 0, r)[c] = sum + bias[0];
    }
    __syncthreads();
  }
};

// bf16 by fragments: M·16 rows and N·8 columns. K a multiple of 8, rows 16-byte aligned. A mixture of hidden states is
// multiplied as the sum of two bf16, which keep sixteen of its bits: rounded to one, it would be less accurate than
// gaps that are mixed after two products.
template <int M, int N, bool Guided>
struct MmaGaps : GapTile<M * 16, N * 8> {
  using Tile = GapTile<M * 16, N * 8>;
  static constexpr int kStep = 32;  // of a warp: eight neighbours a lane, which are the k of two products in some order

  struct Operands {
    uint4 x[M][2], other[Guided ? M : 1][2], w[N];
  };

  // Eight neighbours of row `r` of the block's part of a matrix, of which `rows` exist.
  static __device__ __forceinline__ uint4 fetch(const bf16* part, int r, int rows, int K, int k) {
    if (r >= rows || k >= K) return make_uint4(0, 0, 0, 0);
    return *reinterpret_cast<const uint4*>(part + (r * K + k));
  }

  static __device__ __forceinline__ void fetchAll(const HeadOperands& h, int64_t row, int column, int k, Operands& to) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, at = k + lane % 4 * 8;
    const int rows = h.rows - row < Tile::rows ? static_cast<int>(h.rows - row) : Tile::rows;
    const bf16* x = static_cast<const bf16*>(h.x) + row * h.K;
    const bf16* other = static_cast<const bf16*>(h.other) + row * h.K;
    const bf16* w = static_cast<const bf16*>(h.w) + static_cast<int64_t>(column) * h.K;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        to.x[m][half] = fetch(x, m * 16 + half * 8 + g, rows, h.K, at);
        if (Guided) to.other[m][half] = fetch(other, m * 16 + half * 8 + g, rows, h.K, at);
      }
#pragma unroll
    for (int n = 0; n < N; ++n) to.w[n] = fetch(w, n * 8 + g, h.D - column, h.K, at);
  }

  // Eight neighbours of two rows are the k of two products.
  static __device__ __forceinline__ void multiply(const uint4 top, const uint4 bottom, const uint4 (&w)[N],
                                                  float (&d)[N][4]) {
    const uint32_t first[4] = {top.x, bottom.x, top.y, bottom.y}, second[4] = {top.z, bottom.z, top.w, bottom.w};
#pragma unroll
    for (int n = 0; n < N; ++n) {
      mma(d[n], first, {w[n].x, w[n].y});
      mma(d[n], second, {w[n].z, w[n].w});
    }
  }

  // Of two neighbours: the mixture rounded, and what rounding left.
  struct Mixture {
    uint32_t rounded, rest;
    __device__ __forceinline__ Mixture(const HeadOperands& h, uint32_t x, uint32_t other) {
      const float low = mix(h, lowerBf16(x), lowerBf16(other)), high = mix(h, upperBf16(x), upperBf16(other));
      rounded = packBf16(low, high);
      rest = packBf16(low - lowerBf16(rounded), high - upperBf16(rounded));
    }
  };
  static __device__ __forceinline__ void mixAll(const HeadOperands& h, uint4& x, uint4& other) {
    const Mixture of[4] = {{h, x.x, other.x}, {h, x.y, other.y}, {h, x.z, other.z}, {h, x.w, other.w}};
    x = make_uint4(of[0].rounded, of[1].rounded, of[2].rounded, of[3].rounded);
    other = make_uint4(of[0].rest, of[1].rest, of[2].rest, of[3].rest);
  }

  static __device__ __forceinline__ void multiplyAll(const HeadOperands& h, Operands& o, float (&d)[M][N][4]) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
      if constexpr (Guided) {
        mixAll(h, o.x[m][0], o.other[m][0]);
        mixAll(h, o.x[m][1], o.other[m][1]);
        multiply(o.other[m][0], o.other[m][1], o.w, d[m]);
      }
      multiply(o.x[m][0], o.x[m][1], o.w, d[m]);
    }
  }

  static __device__ void gaps(const HeadOperands& h, int64_t row, int column, float* slices) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    float sum[M][N][4] = {};
    // The next operands are on their way while these are multiplied.
    Operands now, next;
    fetchAll(h, row, column, warp * kStep, now);
    for (int k = warp * kStep; k < h.K; k += 2 * kHeadWarps * kStep) {
      fetchAll(h, row, column, k + kHeadWarps * kStep, next);
      multiplyAll(h, now, sum);
      fetchAll(h, row, column, k + 2 * kHeadWarps * kStep, now);
      multiplyAll(h, next, sum);
    }
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float* to = Tile::row(slices, warp, m * 16 + e / 2 * 8 + lane / 4) + n * 8 + lane % 4 * 2 + e % 2;
          *to = sum[m][n][e];
        }
    Tile::total(h, column, slices);
  }
};

// Any types and any lengths, in float: a lane takes four neighbours of two rows with all columns.
template <class X, class W, bool Guided>
struct FmaGaps : GapTile<16, 32> {
  using Tile = GapTile<16, 32>;

  static __device__ void gaps(const HeadOperands& h, int64_t row, int column, float* slices) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    float sum[2][Tile::columns] = {};
    for (int k = warp * 16 + lane % 4 * 4; k < h.K; k += kHeadWarps * 16) {
      float x[2][4] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t r = row + half * 8 + lane / 4, at = r * h.K + k;
        if (r >= h.rows) continue;
        loadFloats(static_cast<const X*>(h.x) + at, h.K - k, x[half]);
        if (!Guided) continue;
        float other[4];
        loadFloats(static_cast<const X*>(h.other) + at, h.K - k, other);
#pragma unroll
        for (int i = 0; i < 4; ++i) x[half][i] = mix(h, x[half][i], other[i]);
      }
#pragma unroll
      for (int c = 0; c < Tile::columns; ++c) {
        if (column + c >= h.D) continue;
        float w[4];
        loadFloats(static_cast<const W*>(h.w) + static_cast<int64_t>(column + c) * h.K + k, h.K - k, w);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sum[0][c] = fmaf(x[0][i], w[i], sum[0][c]);
          sum[1][c] = fmaf(x[1][i], w[i], sum[1][c]);
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int c = 0; c < Tile::columns; ++c) {
        const float total = warpReduce<4>(sum[half][c]);
        if (c / 8 == lane % 4) Tile::row(slices, warp, half * 8 + lane / 4)[c] = total;
      }
    Tile::total(h, column, slices);
  }
};

// Calls f with the product for these operands. The heights of the blocks change nothing in the result.
template <bool Guided, class F>
void withGaps(const KernelArgs& a, const HeadOperands& h, const F& f) {
  const TensorView &x = a.in[0], &w = a.in[1];
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (x.dtype == DType::bf16 && w.dtype == DType::bf16 && h.K % 8 == 0 && aligned(h.x) && aligned(h.w)) {
    if (h.D > 32) return f(MmaGaps<1, 8, Guided>{});
    // Tall blocks read the head half as often, where there are enough of them.
    const bool tall = h.rows >= 24 * static_cast<int64_t>(a.device->processors);
    return tall ? f(MmaGaps<2, 4, Guided>{}) : f(MmaGaps<1, 4, Guided>{});
  }
  withElement(x.dtype, [&](auto ofX) {
    withElement(w.dtype, [&](auto ofW) { f(FmaGaps<decltype(ofX), decltype(ofW), Guided>{}); });
  });
}

}  // namespace
}  // namespace infinity::cuda
