// Products that sum over rows: C[m, n] = Σ_r y(r, m) · x(r, n). Weight gradients of linear layers and convolutions.
//
// The rows are summed in blocks of kKC, and blocks in segments of a fixed number of rows whose partial sums are added
// in order: the result depends on the number of rows alone, while segments and blocks of C give tiles to the pool.
#pragma once
#include "cpu/gemm.h"

namespace infinity::INFINITY_ISA {
namespace {

/// Block of C that one tile works on: its two packed operands stay in the second-level cache.
constexpr int64_t kOuterRows = 8 * kMR;
constexpr int64_t kOuterColumns = 256;
static_assert(kOuterColumns % kNR == 0);
/// A tile of y (with room for the last row's overhang), then the panels of x.
constexpr int64_t kOuterTile = kKC * kMR + 4 * kLanes;
constexpr size_t kOuterScratch = (kOuterTile + kKC * kOuterColumns) * sizeof(float);

/// Copies n columns of some rows into out[k·n + j]. Writes up to kLanes − 1 elements beyond the end.
INFINITY_INLINE void packColumns(const float* const* from, int64_t col, int rows, int n, float* out) {
  for (int k = 0; k < rows; ++k, out += n) {
    int j = 0;
    for (; j + kLanes <= n; j += kLanes) store(out + j, load(from[k] + col + j));
    if (j < n) store(out + j, loadTail(from[k] + col + j, n - j));
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

  /// Writes x(r + k, col + j) into panels of kNR columns, panel by panel, k-major, zeros beyond `columns`.
  void gather(int64_t r, int rows, int64_t col, int64_t columns, float* panels) const {
    for (int64_t c = 0; c < columns; c += kNR) {
      const int64_t left = columns - c;
      const int vectors = left > kLanes ? kVN : 1;
      for (int k = 0; k < rows; ++k) {
        const float* from = data + (r + k) * stride + col + c;
        for (int v = 0; v < vectors; ++v, panels += kLanes) {
          const int64_t n = left - v * kLanes;
          store(panels, n >= kLanes ? load(from + v * kLanes) : loadTail(from + v * kLanes, static_cast<int>(n)));
        }
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
  float* const a = memory;
  float* const panels = memory + kOuterTile;
  alignas(64) float tile[kMR * kNR];
  const float* yRows[kKC];
  float* outRows[kMR];
  for (int64_t r = at.r0; r < at.r1; r += kKC) {
    const int kc = static_cast<int>(at.r1 - r < kKC ? at.r1 - r : kKC);
    const bool first = r == at.r0;
    x.gather(r, kc, at.n0, at.n1 - at.n0, panels);
    y.pointers(r, kc, yRows);
    for (int64_t m = at.m0, height; m < at.m1; m += height) {
      height = tileRows(at.m1 - m);
      const int h = static_cast<int>(height);
      packColumns(yRows, m, kc, h, a);
      if (sums && at.n0 == 0) addColumnSums(a, kc, h, first, sums + m);
      for (int i = 0; i < h; ++i) outRows[i] = c + (m + i) * N;
      const float* b = panels;
      for (int64_t n = at.n0; n < at.n1; n += kNR) {
        const int vectors = at.n1 - n > kLanes ? kVN : 1;
        microKernelFor<TileOrder::columns, float>(h, vectors)(kc, a, b, tile);
        storeTile(tile, h, vectors, n, at.n1, outRows, m, first, false, AddBias{nullptr});
        b += kc * vectors * kLanes;
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
  // Narrower blocks of C when there are few of them for the threads; it changes nothing in the result.
  int64_t width = kOuterColumns;
  const int64_t mTiles = (M + kOuterRows - 1) / kOuterRows;
  const auto tiles = [&] { return segments.count * mTiles * ((N + width - 1) / width); };
  while (pool.threads() > 1 && tiles() < 4 * pool.threads() && width > kNR) width /= 2;
  const int64_t nTiles = (N + width - 1) / width;
  const auto least = [](int64_t a, int64_t b) { return a < b ? a : b; };
  parallelForWithMemory(pool, tiles(), memory, kOuterScratch, [&](int64_t t, void* mine) {
    const int64_t n0 = t % nTiles * width, m0 = t / nTiles % mTiles * kOuterRows, s = t / nTiles / mTiles;
    const int64_t r0 = s * segments.rows;
    const OuterBlock at = {r0, least(r0 + segments.rows, R), m0, least(m0 + kOuterRows, M), n0, least(n0 + width, N)};
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

}  // namespace
}  // namespace infinity::INFINITY_ISA
