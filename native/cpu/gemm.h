// Products whose rows are independent: out[r, :] = a(r, :) · B for a packed B. Linear layers, convolutions and both
// their input gradients are this product with different ways to fetch a row and to place a result.
#pragma once
#include "cpu/panels.h"

namespace infinity::INFINITY_ISA {
namespace {

/// Asks for n floats that will be needed soon; an address need not be valid.
INFINITY_INLINE void prefetchFloats(const float* p, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) __builtin_prefetch(p + i);
}

/// Rows of a row-major matrix: the plain source of A.
struct MatrixRows {
  const float* data;
  int64_t stride;

  /// Writes a(r + i, k0 + k) to tile[i·kRowStride + k] for i < rows, k < kc.
  void gather(int64_t r, int rows, int64_t k0, int kc, float* tile) const {
    for (int i = 0; i < rows; ++i) {
      const float* from = data + (r + i) * stride + k0;
      float* to = tile + i * kRowStride;
      int k = 0;
      for (; k + kLanes <= kc; k += kLanes) store(to + k, load(from + k));
      if (k < kc) store(to + k, loadTail(from + k, kc - k));
    }
  }
  /// Asks for what `gather` will read of one row.
  void prefetch(int64_t r, int64_t k0, int kc) const { prefetchFloats(data + r * stride + k0, kc); }
};

/// Rows of a row-major matrix: the plain destination.
struct MatrixOut {
  float* data;
  int64_t stride;
  float* row(int64_t r) const { return data + r * stride; }
};

// Epilogues: what happens to a finished sum of row r, columns [col, col + n), n ≤ kLanes, while it is in a register.

struct AddBias {
  const float* bias;  // null: none
  VecF operator()(VecF v, int64_t, int64_t col, int n) const { return bias ? v + loadUpTo(bias + col, n) : v; }
};
struct AddBiasGelu {
  AddBias add;
  VecF operator()(VecF v, int64_t r, int64_t col, int n) const { return gelu(add(v, r, col, n)); }
};
/// residual + gate·(sum + bias); gate [G, N] serves rowsPerGate consecutive rows, null means one.
struct AddBiasGatedResidual {
  AddBias add;
  const float *residual, *gate;
  int64_t columns, rowsPerGate;
  VecF operator()(VecF v, int64_t r, int64_t col, int n) const {
    const VecF y = add(v, r, col, n);
    const VecF x = loadUpTo(residual + r * columns + col, n);
    return gate ? fma(loadUpTo(gate + r / rowsPerGate * columns + col, n), y, x) : x + y;
  }
};

/// Adds a finished block of the sum to the output, and applies the epilogue after the last block.
template <class Epilogue>
INFINITY_INLINE void storeTile(const float* tile, int rows, int vectors, int64_t col, int64_t columns,
                               float* const* out, int64_t r, bool first, bool last, const Epilogue& epilogue) {
  for (int i = 0; i < rows; ++i) {
    for (int v = 0; v < vectors; ++v) {
      const int64_t c = col + v * kLanes;
      const int n = columns - c < kLanes ? static_cast<int>(columns - c) : kLanes;
      VecF sum = load(tile + (i * vectors + v) * kLanes);
      if (!first) sum = loadUpTo(out[i] + c, n) + sum;
      if (last) sum = epilogue(sum, r + i, c, n);
      storeUpTo(out[i] + c, sum, n);
    }
  }
}

/// Rows [r0, r1) times panels [p0, p1).
template <class B, class Rows, class Out, class Epilogue>
void productBlock(int64_t r0, int64_t r1, int64_t p0, int64_t p1, const Rows& rows, const Panels<B>& b, const Out& out,
                  const Epilogue& epilogue) {
  alignas(64) float a[kMR * kRowStride];
  alignas(64) float tile[kMR * kNR];
  float* outRows[kMR];
  // A sum of no terms is still one (empty) block, so that the output is written.
  for (int64_t k0 = 0; k0 == 0 || k0 < b.K; k0 += kKC) {
    const int kc = static_cast<int>(b.K - k0 < kKC ? b.K - k0 : kKC);
    for (int64_t r = r0, height; r < r1; r += height) {
      height = tileRows(r1 - r);
      const int h = static_cast<int>(height);
      rows.gather(r, h, k0, kc, a);
      for (int i = 0; i < h; ++i) outRows[i] = out.row(r + i);
      int64_t ahead = r + h;
      const int64_t aheadEnd = ahead + h < r1 ? ahead + h : r1, aheadStep = (h + p1 - p0 - 1) / (p1 - p0);
      for (int64_t p = p0; p < p1; ++p) {
        const int vectors = b.vectors(p);
        // The memory that the next tile reads and this one writes arrives while the product runs.
        for (int64_t i = 0; i < aheadStep && ahead < aheadEnd; ++i, ++ahead) rows.prefetch(ahead, k0, kc);
        for (int i = 0; i < h; ++i) {
          __builtin_prefetch(outRows[i] + p * kNR, 1);
          if (vectors * kLanes > 16) __builtin_prefetch(outRows[i] + p * kNR + 16, 1);
        }
        microKernelFor<TileOrder::rows, B>(h, vectors)(kc, a, b.panel(p) + k0 * vectors * kLanes, tile);
        storeTile(tile, h, vectors, p * kNR, b.N, outRows, r, k0 == 0, k0 + kc == b.K, epilogue);
      }
    }
  }
}

/// How a product is cut into tiles for the pool. Has no influence on the result.
struct Cut {
  int64_t rows, panels;  // of one tile
};
inline Cut cutProduct(int64_t M, int64_t N, int64_t K, int threads) {
  constexpr int64_t kWorthATile = 1 << 17;  // multiply-adds below which another tile costs more than it brings
  Cut cut = {8 * kMR, 512 / kNR};
  const int64_t panels = (N + kNR - 1) / kNR;
  if (threads == 1) return cut;
  if (cut.panels > panels) cut.panels = panels;
  if (cut.rows > M) cut.rows = M;
  const int64_t wanted = 4 * threads;
  const auto tiles = [&] { return ((M + cut.rows - 1) / cut.rows) * ((panels + cut.panels - 1) / cut.panels); };
  const auto work = [&] { return cut.rows * cut.panels * kNR * K; };
  while (tiles() < wanted && cut.rows > 2 * kMR && work() > 2 * kWorthATile)
    cut.rows = (cut.rows / 2 + kMR - 1) / kMR * kMR;
  while (tiles() < wanted && cut.panels > 1 && work() > 2 * kWorthATile) cut.panels = (cut.panels + 1) / 2;
  return cut;
}

/// out[r, :] = epilogue(rows(r, :) · b) for r < M.
template <class B, class Rows, class Out, class Epilogue>
void product(Pool& pool, int64_t M, const Rows& rows, const Panels<B>& b, const Out& out, const Epilogue& epilogue) {
  const Cut cut = cutProduct(M, b.N, b.K, pool.threads());
  const int64_t rowTiles = (M + cut.rows - 1) / cut.rows, columnTiles = (b.count() + cut.panels - 1) / cut.panels;
  pool.parallelFor(rowTiles * columnTiles, [&](int64_t t) {
    const int64_t r0 = t / columnTiles * cut.rows, p0 = t % columnTiles * cut.panels;
    const int64_t r1 = r0 + cut.rows < M ? r0 + cut.rows : M;
    const int64_t p1 = p0 + cut.panels < b.count() ? p0 + cut.panels : b.count();
    productBlock(r0, r1, p0, p1, rows, b, out, epilogue);
  });
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
