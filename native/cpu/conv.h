// Convolutions as matrix products without the matrix: a row of A is the neighbourhood of one pixel, fetched while the
// product runs. A convolution is one or more phases, each a list of taps on a grid of pixels:
//   out(b, y·outStep + oy, x·outStep + ox) = Σ_taps in(b, y·inStep + dy, x·inStep + dx) · W_tap,
// zero outside the picture. Forward, input gradient and upsampling differ only in the lists.
#pragma once
#include "cpu/gemm_outer.h"
#include "cpu/taps.h"

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
  void prefetch(int64_t r, int64_t m, int n) const {
    prefetchFloats(data + r * grid.step * grid.step * grid.C + m, n * grid.step);
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
class Patches {
 public:
  Patches(const float* data, const Grid& grid, const Phase& phase) : data_(data), grid_(grid) {
    for (int t = 0; t < phase.count; ++t) {
      const Tap& tap = phase.tap[t];
      Run* last = runs_ ? &run_[runs_ - 1] : nullptr;
      if (last && last->dy == tap.dy && last->dx + last->taps == tap.dx) {
        ++last->taps;
      } else {
        run_[runs_++] = {tap.dy, tap.dx, 1};
      }
    }
  }

  /// As MatrixRows::gather.
  void gather(int64_t r, int rows, int64_t k0, int kc, float* tile) const {
    Pixel pixels[kMR];
    locate(r, rows, pixels);
    forEachPiece(k0, k0 + kc, [&](const Piece& piece) { copy(piece, pixels, rows, tile + piece.to, kRowStride); });
  }

  /// The neighbourhood of r adds about this much to that of the position before it: its last tap.
  void prefetch(int64_t r, int64_t, int) const {
    const Run& last = run_[runs_ ? runs_ - 1 : 0];
    const int64_t shift = last.dy * grid_.W + last.dx + last.taps - 1;
    prefetchFloats(data_ + (r * grid_.step * grid_.step + shift) * grid_.C, grid_.step * grid_.C);
  }

  /// As MatrixColumns::gather.
  void gather(int64_t r, int rows, int64_t col, int64_t columns, float* panels) const {
    Pixel pixels[kKC];
    locate(r, rows, pixels);
    for (int64_t c = 0; c < columns; c += kNR, panels += kPanelStride) {
      const int64_t n = columns - c < kNR ? columns - c : kNR, width = n > kLanes ? kNR : kLanes;
      if (n < width) zeroFloats(panels, rows * width);
      forEachPiece(col + c, col + c + n,
                   [&](const Piece& piece) { copy(piece, pixels, rows, panels + piece.to, width); });
    }
  }

 private:
  /// Taps that are neighbours in x: one piece of memory where all are inside.
  struct Run {
    int dy, dx, taps;
  };
  /// What a range of the neighbourhood takes from one run: n floats, `skip` floats after the start of the tap at (dy,
  /// dx).
  struct Piece {
    int64_t to, n, skip;
    int dy, dx, taps;
  };
  struct Pixel {
    int64_t element;
    int y, x;
  };

  void locate(int64_t r, int rows, Pixel* pixels) const {
    Position at(grid_, r);
    for (int i = 0; i < rows; ++i, at.advance(grid_)) {
      const int64_t y = at.y * grid_.step, x = at.x * grid_.step;
      pixels[i] = {((at.b * grid_.H + y) * grid_.W + x) * grid_.C, static_cast<int>(y), static_cast<int>(x)};
    }
  }

  /// Pieces that cover [k0, k1) of a neighbourhood; `to` counts from k0.
  template <class F>
  INFINITY_INLINE void forEachPiece(int64_t k0, int64_t k1, const F& f) const {
    const int64_t C = grid_.C;
    for (int64_t i = 0, start = 0; i < runs_ && start < k1; ++i) {
      const Run& run = run_[i];
      const int64_t end = start + run.taps * C;
      if (end > k0) {
        const int64_t lo = (start > k0 ? start : k0) - start, hi = (end < k1 ? end : k1) - start;
        const int first = static_cast<int>(lo / C), last = static_cast<int>((hi - 1) / C);
        f(Piece{start + lo - k0, hi - lo, lo - first * C, run.dy, run.dx + first, last - first + 1});
      }
      start = end;
    }
  }

  /// Row i of the piece goes to out + i·stride.
  INFINITY_INLINE void copy(const Piece& piece, const Pixel* pixels, int rows, float* out, int64_t stride) const {
    const int64_t shift = (piece.dy * grid_.W + piece.dx) * grid_.C + piece.skip;
    const int H = static_cast<int>(grid_.H), W = static_cast<int>(grid_.W);
    for (int i = 0; i < rows; ++i, out += stride) {
      const int y = pixels[i].y + piece.dy, x = pixels[i].x + piece.dx;
      const bool insideY = y >= 0 && y < H;
      if (insideY && x >= 0 && x + piece.taps <= W) {
        copyFloats(out, data_ + (pixels[i].element + shift), piece.n);
      } else {
        // The taps of the piece that are inside: [v0, v1).
        const int64_t v0 = x < 0 ? -x : 0, v1 = !insideY || x + piece.taps <= W ? piece.taps : W - x;
        const auto clamp = [&](int64_t at) { return at < 0 ? 0 : at > piece.n ? piece.n : at; };
        const int64_t lo = insideY ? clamp(v0 * grid_.C - piece.skip) : piece.n;
        const int64_t hi = insideY && v1 > v0 ? clamp(v1 * grid_.C - piece.skip) : lo;
        zeroFloats(out, lo);
        if (hi > lo) copyFloats(out + lo, data_ + (pixels[i].element + shift + lo), hi - lo);
        if (piece.n > hi) zeroFloats(out + hi, piece.n - hi);
      }
    }
  }

  const float* data_;
  Grid grid_;
  int runs_ = 0;
  Run run_[kMaxTaps];
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
