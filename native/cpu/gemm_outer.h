// Products that sum over rows: C[m, n] = Σ_r y(r, m) · x(r, n). Weight gradients of linear layers and convolutions.
//
// The rows are summed in blocks of kKC, and blocks in segments of a fixed number of rows whose partial sums are added
// in order: the result depends on the number of rows alone, while segments and blocks of C give tiles to the pool.
#pragma once
#include "cpu/gemm.h"

namespace infinity::INFINITY_ISA {
namespace {

/// Largest block of C that one tile of the pool works on: about square, because each operand is copied once for every
/// block of the other, and small enough that it stays in the second-level cache with both copies.
constexpr int kOuterTiles = 256 / kMR + 1;
constexpr int64_t kOuterRows = kOuterTiles * kMR;
constexpr int64_t kOuterColumns = 256;
static_assert(kOuterColumns % kNR == 0);
/// Distance of two packed tiles of y (with room for the overhang of a row) and of two panels of x (off a power of two).
constexpr int64_t kTileStride = kKC * kMR + kLanes;
constexpr int64_t kPanelStride = kKC * kNR + 2 * kLanes;
constexpr int64_t kOuterY = (kOuterTiles * kTileStride + 15) / 16 * 16;
constexpr size_t kOuterScratch = (kOuterY + kOuterColumns / kNR * kPanelStride) * sizeof(float);

/// Copies columns [m0, m1) of some rows into tiles, each k-major: tile t at out + t·kTileStride.
INFINITY_INLINE void packTiles(const float* const* from, int rows, int64_t m0, int64_t m1, float* out) {
  for (int k = 0; k < rows; ++k) {
    float* tile = out;
    for (int64_t m = m0, height; m < m1; m += height, tile += kTileStride) {
      height = tileRows(m1 - m);
      const int n = static_cast<int>(height);
      // The last vector of a row spills over into the next row, which is written after it.
      float* to = tile + k * n;
      int j = 0;
      for (; j + kLanes <= n; j += kLanes) store(to + j, load(from[k] + m + j));
      if (j < n) store(to + j, loadTail(from[k] + m + j, n - j));
    }
  }
}

/// sums[j] (+)= Σ_k a[k·n + j] for n ≤ kMR packed columns. Reads the overhang of the last row.
INFINITY_INLINE void addColumnSums(const float* a, int rows, int n, bool first, float* sums) {
  for (int j = 0; j < n; j += kLanes) {
    VecF s = {};
    for (int k = 0; k < rows; ++k) s = s + load(a + k * n + j);
    const int lanes = n - j < kLanes ? n - j : kLanes;
    storeUpTo(sums + j, first ? s : loadUpTo(sums + j, lanes) + s, lanes);
  }
}

/// Rows of a row-major matrix: the plain source of y.
struct MatrixRowPointers {
  const float* data;
  int64_t stride;
  void pointers(int64_t r, int rows, const float** out) const {
    for (int k = 0; k < rows; ++k) out[k] = data + (r + k) * stride;
  }
};

/// Columns of a row-major matrix as panels: the plain source of x.
struct MatrixColumns {
  const float* data;
  int64_t stride;

  /// Writes x(r + k, col + j) into panels kPanelStride apart, each k-major, zeros beyond `columns` in the last.
  void gather(int64_t r, int rows, int64_t col, int64_t columns, float* panels) const {
    for (int k = 0; k < rows; ++k) {
      const float* from = data + (r + k) * stride + col;
      float* panel = panels;
      int64_t c = 0;
      for (; c + kNR <= columns; c += kNR, panel += kPanelStride) {
        for (int v = 0; v < kVN; ++v) store(panel + k * kNR + v * kLanes, load(from + c + v * kLanes));
      }
      if (c == columns) continue;
      const int vectors = columns - c > kLanes ? kVN : 1;
      for (int v = 0; v < vectors; ++v, c += kLanes) {
        const int64_t n = columns - c;
        store(panel + (k * vectors + v) * kLanes,
              n >= kLanes ? load(from + c) : loadTail(from + c, static_cast<int>(n)));
      }
    }
  }
};

/// Where a sum over rows is cut: segments of `rows` rows, a multiple of kKC.
struct Segments {
  int64_t count, rows;
};

/// One tile of C and of the rows: [m0, m1) × [n0, n1), summed over [r0, r1).
struct OuterBlock {
  int64_t r0, r1, m0, m1, n0, n1;
};

/// c[m·N + n] = Σ_r y(r, m)·x(r, n) over a block; where n0 is 0 and sums is given, also sums[m] = Σ_r y(r, m).
template <class Rows, class Columns>
void outerBlock(const Rows& y, const Columns& x, int64_t N, const OuterBlock& at, float* c, float* sums,
                float* memory) {
  float* const tiles = memory;
  float* const panels = memory + kOuterY;
  alignas(64) float tile[kMR * kNR];
  const float* yRows[kKC];
  float* outRows[kMR];
  for (int64_t r = at.r0; r < at.r1; r += kKC) {
    const int kc = static_cast<int>(at.r1 - r < kKC ? at.r1 - r : kKC);
    const bool first = r == at.r0;
    x.gather(r, kc, at.n0, at.n1 - at.n0, panels);
    y.pointers(r, kc, yRows);
    packTiles(yRows, kc, at.m0, at.m1, tiles);
    const float* a = tiles;
    for (int64_t m = at.m0, height; m < at.m1; m += height, a += kTileStride) {
      height = tileRows(at.m1 - m);
      const int h = static_cast<int>(height);
      if (sums && at.n0 == 0) addColumnSums(a, kc, h, first, sums + m);
      for (int i = 0; i < h; ++i) outRows[i] = c + (m + i) * N;
      const float* b = panels;
      for (int64_t n = at.n0; n < at.n1; n += kNR, b += kPanelStride) {
        const int vectors = at.n1 - n > kLanes ? kVN : 1;
        microKernelFor<TileOrder::columns, float>(h, vectors)(kc, a, b, tile);
        storeTile(tile, h, vectors, n, at.n1, outRows, m, first, false, AddBias{nullptr});
      }
    }
  }
}

/// Scratch that `outerProduct` needs beyond the partial sums.
inline size_t outerScratch(int threads) { return threads * kOuterScratch; }

/// partial[s][m][n] = Σ over the rows of segment s of y(r, m)·x(r, n), and sums[s][m] = Σ y(r, m) unless null.
template <class Rows, class Columns>
void outerProduct(Pool& pool, int64_t R, const Rows& y, int64_t M, const Columns& x, int64_t N, Segments segments,
                  float* partial, float* sums, void* memory) {
  // Blocks of about equal size; more than necessary when the threads need them, which changes nothing in the result.
  const auto least = [](int64_t a, int64_t b) { return a < b ? a : b; };
  const auto widthOf = [&](int64_t blocks) { return ceilDiv(ceilDiv(N, blocks), kNR) * kNR; };
  int64_t mBlocks = ceilDiv(M, kOuterRows), nBlocks = ceilDiv(N, kOuterColumns);
  while (pool.threads() > 1 && segments.count * mBlocks * nBlocks < 2 * pool.threads()) {
    if (widthOf(nBlocks) >= ceilDiv(M, mBlocks) && widthOf(nBlocks) > kNR) {
      nBlocks = ceilDiv(N, widthOf(2 * nBlocks));
    } else if (ceilDiv(M, mBlocks) > kMR) {
      mBlocks *= 2;
    } else {
      break;
    }
  }
  const int64_t height = ceilDiv(M, mBlocks), width = widthOf(nBlocks);
  mBlocks = ceilDiv(M, height);
  nBlocks = ceilDiv(N, width);
  parallelForWithMemory(pool, segments.count * mBlocks * nBlocks, memory, kOuterScratch, [&](int64_t t, void* mine) {
    const int64_t n0 = t % nBlocks * width, m0 = t / nBlocks % mBlocks * height, s = t / nBlocks / mBlocks;
    const int64_t r0 = s * segments.rows;
    const OuterBlock at = {r0, least(r0 + segments.rows, R), m0, least(m0 + height, M), n0, least(n0 + width, N)};
    outerBlock(y, x, N, at, partial + s * M * N, sums ? sums + s * M : nullptr, static_cast<float*>(mine));
  });
}

/// sum[i] = Σ_s partial[s·n + i], in order.
inline void addPartials(Pool& pool, const float* partial, int64_t segments, int64_t n, float* sum) {
  constexpr int64_t kPiece = 4096;
  pool.parallelFor((n + kPiece - 1) / kPiece, [&](int64_t t) {
    const int64_t end = (t + 1) * kPiece < n ? (t + 1) * kPiece : n;
    for (int64_t i = t * kPiece; i < end; i += kLanes) {
      const int lanes = end - i < kLanes ? static_cast<int>(end - i) : kLanes;
      VecF v = loadUpTo(partial + i, lanes);
      for (int64_t s = 1; s < segments; ++s) v = v + loadUpTo(partial + s * n + i, lanes);
      storeUpTo(sum + i, v, lanes);
    }
  });
}

/// The segments of a sum over R rows into C of M × N: a function of these sizes only.
inline Segments segmentsOf(int64_t R, int64_t M, int64_t N) {
  constexpr int64_t kSegmentRows = 4096, kMost = 16, kPartialElements = 1 << 22;
  int64_t count = (R + kSegmentRows / 2) / kSegmentRows;
  if (count > kMost) count = kMost;
  if (count > kPartialElements / (M * N)) count = kPartialElements / (M * N);
  if (count < 1) count = 1;
  const int64_t rows = ((R + count - 1) / count + kKC - 1) / kKC * kKC;
  return {(R + rows - 1) / rows, rows};
}

// ---- dW = dyᵀ·x [N, K] and db = Σ dy [N] over R rows

inline size_t weightGradientBytes(int threads, int64_t R, int64_t N, int64_t K) {
  return outerScratch(threads) + segmentsOf(R, N, K).count * N * (K + 1) * sizeof(float);
}
inline void weightGradient(Pool& pool, int64_t R, const float* dy, int64_t N, const float* x, int64_t K, float* dw,
                           float* db, void* scratch) {
  const Segments segments = segmentsOf(R, N, K);
  const bool direct = segments.count == 1;
  float* partial = direct ? dw : reinterpret_cast<float*>(static_cast<char*>(scratch) + outerScratch(pool.threads()));
  float* sums = direct ? db : partial + segments.count * N * K;
  outerProduct(pool, R, MatrixRowPointers{dy, N}, N, MatrixColumns{x, K}, K, segments, partial, sums, scratch);
  if (direct) return;
  addPartials(pool, partial, segments.count, N * K, dw);
  addPartials(pool, sums, segments.count, N, db);
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
