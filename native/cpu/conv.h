// Convolutions as matrix products without the matrix: a row of A is the neighbourhood of one pixel, fetched while the
// product runs. A convolution is one or more phases, each a list of taps on a grid of pixels:
//   out(b, y·outStep + oy, x·outStep + ox) = Σ_taps in(b, y·inStep + dy, x·inStep + dx) · W_tap,
// zero outside the picture. Forward, input gradient and upsampling differ only in the lists.
#pragma once
#include "cpu/gemm_outer.h"
#include "ops/conv/taps.h"

namespace infinity::INFINITY_ISA {
namespace {

/// A channels-last picture [B, H, W, C] seen through a step and an offset.
struct Grid {
  int64_t H, W, C;        // of the picture
  int64_t rows, columns;  // grid positions in one picture
  int64_t step, y0, x0;   // position (y, x) is pixel (y·step + y0, x·step + x0)
};

/// Walks over grid positions in row order without a division a step.
struct Position {
  int64_t b, y, x;
  Position(const Grid& g, int64_t r) : b(r / (g.rows * g.columns)), y(r / g.columns % g.rows), x(r % g.columns) {}
  void advance(const Grid& g) {
    if (++x == g.columns) {
      x = 0;
      if (++y == g.rows) y = 0, ++b;
    }
  }
  int64_t element(const Grid& g) const { return ((b * g.H + y * g.step + g.y0) * g.W + x * g.step + g.x0) * g.C; }
};

/// Pixels of a grid as rows: destination of a product, or source of an outer product.
struct GridRows {
  float* data;
  Grid grid;
  float* row(int64_t r) const { return data + Position(grid, r).element(grid); }
  void pointers(int64_t r, int rows, const float** out) const {
    Position at(grid, r);
    for (int k = 0; k < rows; ++k, at.advance(grid)) out[k] = data + at.element(grid);
  }
};

INFINITY_INLINE void copyFloats(float* to, const float* from, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(to + i, load(from + i));
  if (i < n) storeTail(to + i, loadTail(from + i, static_cast<int>(n - i)), static_cast<int>(n - i));
}
INFINITY_INLINE void zeroFloats(float* to, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(to + i, VecF{});
  if (i < n) storeTail(to + i, VecF{}, static_cast<int>(n - i));
}

/// Neighbourhoods as rows of length taps·C: for one phase, tap by tap, channels innermost.
struct Patches {
  const float* data;
  Grid grid;
  int runs = 0;
  struct Run {
    int64_t dy, dx, taps;  // taps that are neighbours in x are one piece of memory
  } run[kMaxTaps];

  Patches(const float* data, const Grid& grid, const Phase& phase) : data(data), grid(grid) {
    for (int t = 0; t < phase.count; ++t) {
      const Tap& tap = phase.tap[t];
      Run* last = runs ? &run[runs - 1] : nullptr;
      if (last && last->dy == tap.dy && last->dx + last->taps == tap.dx) {
        ++last->taps;
      } else {
        run[runs++] = {tap.dy, tap.dx, 1};
      }
    }
  }

  /// Calls put(k, from, n) for pieces that cover [k0, k1) of the neighbourhood of a position; from is null for zeros.
  template <class Put>
  INFINITY_INLINE void visit(const Position& at, int64_t k0, int64_t k1, const Put& put) const {
    const auto clamp = [](int64_t v, int64_t lo, int64_t hi) { return v < lo ? lo : v > hi ? hi : v; };
    const int64_t C = grid.C;
    int64_t start = 0;
    for (int i = 0; i < runs; ++i) {
      const Run& piece = run[i];
      const int64_t end = start + piece.taps * C;
      if (start >= k1) return;
      if (end > k0) {
        const int64_t y = at.y * grid.step + piece.dy, x = at.x * grid.step + piece.dx;
        const int64_t lo = start > k0 ? start : k0, hi = end < k1 ? end : k1;
        int64_t inside0 = hi, inside1 = hi;
        if (y >= 0 && y < grid.H) {
          inside0 = clamp(start - x * C, lo, hi);
          inside1 = clamp(start + (grid.W - x) * C, inside0, hi);
        }
        if (inside0 > lo) put(lo, nullptr, inside0 - lo);
        if (inside1 > inside0) {
          put(inside0, data + ((at.b * grid.H + y) * grid.W + x) * C + (inside0 - start), inside1 - inside0);
        }
        if (hi > inside1) put(inside1, nullptr, hi - inside1);
      }
      start = end;
    }
  }

  void gather(int64_t r, int rows, int64_t k0, int kc, float* tile) const {
    Position at(grid, r);
    for (int i = 0; i < rows; ++i, at.advance(grid), tile += kRowStride) {
      visit(at, k0, k0 + kc, [&](int64_t k, const float* from, int64_t n) {
        from ? copyFloats(tile + k - k0, from, n) : zeroFloats(tile + k - k0, n);
      });
    }
  }

  void gather(int64_t r, int rows, int64_t col, int64_t columns, float* panels) const {
    Position at(grid, r);
    const int64_t rest = columns % kNR, full = columns - rest, lastWidth = rest > kLanes ? kNR : kLanes;
    if (rest) zeroFloats(panels + full * rows, rows * lastWidth);
    for (int i = 0; i < rows; ++i, at.advance(grid)) {
      visit(at, col, col + columns, [&](int64_t k, const float* from, int64_t n) {
        for (int64_t j = k - col, left = n, piece; left > 0; j += piece, left -= piece) {
          const int64_t in = j % kNR, width = j < full ? kNR : lastWidth;
          piece = kNR - in < left ? kNR - in : left;
          float* to = panels + (j - in) * rows + i * width + in;
          from ? copyFloats(to, from + (n - left), piece) : zeroFloats(to, piece);
        }
      });
    }
  }
};

/// Packs the weights of a phase. `weights` holds element (n, c, tap) at n·strideN + c·strideC + tap; a tap of the phase
/// may be the sum of several taps of the kernel.
template <class B, class S>
void packPhase(Pool& pool, const Panels<B>& to, const Phase& phase, const S* weights, int64_t C, int64_t strideC,
               int64_t strideN) {
  pool.parallelFor(to.count() * phase.count, [&](int64_t job) {
    const int64_t p = job / phase.count, t = job % phase.count;
    const Tap& tap = phase.tap[t];
    const int columns = static_cast<int>(to.columns(p)), vectors = to.vectors(p);
    alignas(64) float row[kNR] = {};
    for (int64_t c = 0; c < C; ++c) {
      const S* from = weights + p * kNR * strideN + c * strideC;
      for (int j = 0; j < columns; ++j) {
        float sum = asFloat(from[j * strideN + tap.weight[0]]);
        for (int i = 1; i < tap.weights; ++i) sum += asFloat(from[j * strideN + tap.weight[i]]);
        row[j] = sum;
      }
      storeRow(to.panel(p), t * C + c, row, vectors);
    }
  });
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
