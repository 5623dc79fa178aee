// Convolutions with fewer multiplications (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016):
// the picture is cut into tiles of the result, the pixels that a tile sees are transformed to points, weights likewise,
// and at every point a tile is a product over channels:
//   tile = Output( Σ_c Input(window)[c] ⊙ Weights(kernel)[c] ).
//
// Tiles are worked on in blocks whose transformed pixels and sums stay in the second-level cache. Weights are
// transformed for a group of output channels at a time, so that they take a bounded scratch and no memory of their own.
// Every element is a sum over chunks of kWinogradTerms channels in order: neither blocks nor groups change it.
#pragma once
#include "cpu/winograd_forms.h"

namespace infinity::INFINITY_ISA {
namespace {

/// Channels that a sum accumulates in registers. Short chains keep the rounding error below that of the plain sum.
constexpr int kWinogradTerms = 64;
/// A row of transformed pixels holds the chunks of several points, so that it is a row of the micro-kernel's tile.
constexpr int kPointsPerRow = kKC / kWinogradTerms;
/// Distance of the weights of two points: off a power of two, because they are written side by side.
constexpr int64_t kPointStride = kWinogradTerms * kNR + 16;
/// Output channels of a group: transformed weights of 512 input channels then take 9.4 MB.
constexpr int64_t kWinogradGroup = 128 / kNR;
static_assert(128 % kNR == 0);

/// How the tiles are shared out. Has no influence on the result.
template <class Form>
struct WinogradCut {
  static constexpr int kPoints = Form::kPoints * Form::kPoints;
  /// Tiles of a block: about a thousand rows of all products together.
  static constexpr int64_t kBlock = ceilDiv(ceilDiv(1000, kPoints), kMR) * kMR;
  static constexpr int64_t kRows = ceilDiv(kPoints, kPointsPerRow);  // of transformed pixels, of a tile
  /// Distance of two chunks of transformed weights.
  static constexpr int64_t kUnit = kPoints * kPointStride;

  int64_t tilesY, tilesX, tiles, blocks, block, splits, chunks, panels;
  WinogradCut(const Picture& out, int64_t C, int threads)
      : tilesY(ceilDiv(out.H, Form::kOut)),
        tilesX(ceilDiv(out.W, Form::kOut)),
        tiles(out.B * tilesY * tilesX),
        blocks(ceilDiv(tiles, kBlock)),
        block(ceilDiv(tiles, blocks)),
        splits(1),
        chunks(ceilDiv(C, kWinogradTerms)),
        panels(ceilDiv(out.C, kNR)) {
    if (panels > kWinogradGroup) panels = kWinogradGroup;
    while (threads > 1 && blocks * splits < 2 * threads && splits < panels) ++splits;
  }
  int64_t weightFloats() const { return panels * chunks * kUnit; }
  int64_t pixelFloats() const { return kRows * block * kRowStride; }
  int64_t sumFloats() const { return panels * kPoints * block * kNR; }
  size_t bytes() const { return static_cast<size_t>(pixelFloats() + sumFloats()) * sizeof(float); }
  size_t scratch(int threads) const { return weightFloats() * sizeof(float) + threads * bytes(); }
};

/// Transforms a chunk of the weights of one panel to [point][channel][column].
template <int VN, int kPoints, class Weights>
void transformWeights(const Weights& weights, int64_t p, int64_t c0, int64_t terms, float* out) {
  for (int64_t k = 0; k < terms; ++k) {
    VecF u[kPoints][VN];
    weights.template read<VN>(p, c0 + k, u);
    float* to = out + k * VN * kLanes;
    for (int i = 0; i < kPoints; ++i, to += kPointStride)
      for (int v = 0; v < VN; ++v) store(to + v * kLanes, u[i][v]);
  }
}

/// Transforms channels [c, c + n) of the window at pixel (y0, x0) of picture b, n ≤ kWinogradTerms, zeros outside.
template <class Form>
void transformPixels(const Picture& in, int64_t b, int64_t y0, int64_t x0, int64_t c, int64_t n, int64_t rowStride,
                     float* out) {
  constexpr int W = Form::kWindow, P = Form::kPoints;
  alignas(64) static const float zeros[kWinogradTerms] = {};
  const float* pixels[W][W];
  for (int y = 0; y < W; ++y) {
    for (int x = 0; x < W; ++x) {
      const bool inside = y0 + y >= 0 && y0 + y < in.H && x0 + x >= 0 && x0 + x < in.W;
      pixels[y][x] = inside ? in.pixel(b, y0 + y, x0 + x) + c : zeros;
    }
  }
  // The columns that the next tile adds, which the processor does not guess: its rows are far apart.
  for (int y = 0; y < W; ++y)
    for (int x = W - Form::kStep; x < W; ++x)
      if (pixels[y][x] != zeros) prefetchFloats(pixels[y][x] + Form::kStep * in.C, n);
  for (int64_t k = 0; k < n; k += kLanes) {
    const int lanes = n - k < kLanes ? static_cast<int>(n - k) : kLanes;
    VecF columns[W][P];
#pragma GCC unroll 6
    for (int x = 0; x < W; ++x) {
      VecF d[W];
#pragma GCC unroll 6
      for (int y = 0; y < W; ++y) d[y] = loadUpTo(pixels[y][x] + k, lanes);
      Form::input(d, columns[x]);
    }
#pragma GCC unroll 6
    for (int y = 0; y < P; ++y) {
      VecF d[W], v[P];
#pragma GCC unroll 6
      for (int x = 0; x < W; ++x) d[x] = columns[x][y];
      Form::input(d, v);
#pragma GCC unroll 6
      for (int x = 0; x < P; ++x) {
        const int point = y * P + x;
        store(out + point / kPointsPerRow * rowStride + point % kPointsPerRow * kWinogradTerms + k, v[x]);
      }
    }
  }
}

/// Writes the tile at (y0, x0) of picture b, columns [col, col + n), from its sums, `stride` apart.
template <class Form, class Epilogue>
INFINITY_INLINE void writeTile(const Picture& out, int64_t b, int64_t y0, int64_t x0, int64_t col, int n,
                               const float* sums, int64_t stride, const Epilogue& epilogue) {
  constexpr int P = Form::kPoints, Q = Form::kOut;
  VecF columns[P][Q];
#pragma GCC unroll 6
  for (int x = 0; x < P; ++x) {
    VecF m[P];
#pragma GCC unroll 6
    for (int y = 0; y < P; ++y) m[y] = load(sums + (y * P + x) * stride);
    Form::output(m, columns[x]);
  }
#pragma GCC unroll 4
  for (int y = 0; y < Q; ++y) {
    VecF m[P], v[Q];
#pragma GCC unroll 6
    for (int x = 0; x < P; ++x) m[x] = columns[x][y];
    Form::output(m, v);
    if (y0 + y >= out.H) break;
    float* to = out.pixel(b, y0 + y, x0) + col;
#pragma GCC unroll 4
    for (int x = 0; x < Q; ++x)
      if (x0 + x < out.W) storeUpTo(to + x * out.C, epilogue(v[x], 0, col, n), n);
  }
}

/// sums[row][column] (+)= pixels · weights at every point, for one chunk of channels and one panel.
template <int kPoints>
void multiplyPoints(const float* pixels, int64_t block, int64_t tiles, const float* weights, int vectors, int terms,
                    bool first, float* sums) {
  const int64_t width = vectors * kLanes;
  alignas(64) float tile[kMR * kNR];
  for (int point = 0; point < kPoints; ++point) {
    const float* a = pixels + point / kPointsPerRow * block * kRowStride + point % kPointsPerRow * kWinogradTerms;
    const float* b = weights + point * kPointStride;
    float* to = sums + point * block * width;
    for (int64_t t = 0, height; t < tiles; t += height) {
      height = tileRows(tiles - t);
      const auto kernel = microKernelFor<TileOrder::rows, float>(static_cast<int>(height), vectors);
      kernel(terms, a + t * kRowStride, b, first ? to + t * width : tile);
      if (first) continue;
      for (int64_t i = 0; i < height * width; i += kLanes)
        store(to + t * width + i, load(to + t * width + i) + load(tile + i));
    }
  }
}

/// out = epilogue(convolution of `in`), zeros above and before it as given, below and behind as the shape of `out` asks
/// for; `weights` gives the transformed kernel, `memory` is the cut's scratch.
template <class Form, class Weights, class Epilogue>
void winograd(Pool& pool, const Picture& in, const Picture& out, int64_t padTop, int64_t padLeft,
              const Weights& weights, const Epilogue& epilogue, void* memory) {
  using Cut = WinogradCut<Form>;
  const Cut cut(out, in.C, pool.threads());
  const Panels<float> columns = {nullptr, 0, out.C};  // how the columns are cut
  const auto least = [](int64_t a, int64_t b) { return a < b ? a : b; };
  float* const transformed = static_cast<float*>(memory);
  for (int64_t first = 0; first < columns.count(); first += cut.panels) {
    const int64_t panels = least(cut.panels, columns.count() - first), perSplit = ceilDiv(panels, cut.splits);
    pool.parallelFor(panels * cut.chunks, [&](int64_t job) {
      const int64_t p = first + job / cut.chunks, c0 = job % cut.chunks * kWinogradTerms;
      const int64_t terms = least(kWinogradTerms, in.C - c0);
      float* to = transformed + job * Cut::kUnit;
      columns.vectors(p) == kVN ? transformWeights<kVN, Cut::kPoints>(weights, p, c0, terms, to)
                                : transformWeights<1, Cut::kPoints>(weights, p, c0, terms, to);
    });
    const auto runBlock = [&](int64_t job, void* mine) {
      float* const pixels = static_cast<float*>(mine);
      float* const sums = pixels + cut.pixelFloats();
      const int64_t t0 = job / cut.splits * cut.block, t1 = least(t0 + cut.block, cut.tiles);
      const int64_t p0 = job % cut.splits * perSplit, p1 = least(p0 + perSplit, panels);
      if (t0 >= t1 || p0 >= p1) return;
      const int64_t sumsPerPanel = Cut::kPoints * cut.block * kNR;
      const auto forEachTile = [&](const auto& f) {
        for (int64_t t = t0; t < t1; ++t)
          f(t - t0, t / (cut.tilesY * cut.tilesX), t / cut.tilesX % cut.tilesY, t % cut.tilesX);
      };
      for (int64_t chunk = 0; chunk < cut.chunks; ++chunk) {
        const int64_t c0 = chunk * kWinogradTerms, terms = least(kWinogradTerms, in.C - c0);
        forEachTile([&](int64_t i, int64_t b, int64_t y, int64_t x) {
          transformPixels<Form>(in, b, y * Form::kStep - padTop, x * Form::kStep - padLeft, c0, terms,
                                cut.block * kRowStride, pixels + i * kRowStride);
        });
        for (int64_t p = p0; p < p1; ++p)
          multiplyPoints<Cut::kPoints>(pixels, cut.block, t1 - t0, transformed + (p * cut.chunks + chunk) * Cut::kUnit,
                                       columns.vectors(first + p), static_cast<int>(terms), chunk == 0,
                                       sums + p * sumsPerPanel);
      }
      for (int64_t p = p0; p < p1; ++p) {
        const int vectors = columns.vectors(first + p);
        forEachTile([&](int64_t i, int64_t b, int64_t y, int64_t x) {
          for (int v = 0; v < vectors; ++v) {
            const int64_t col = (first + p) * kNR + v * kLanes;
            const int n = static_cast<int>(least(kLanes, out.C - col));
            writeTile<Form>(out, b, y * Form::kOut, x * Form::kOut, col, n,
                            sums + p * sumsPerPanel + (i * vectors + v) * kLanes, cut.block * vectors * kLanes,
                            epilogue);
          }
        });
      }
    };
    parallelForWithMemory(pool, cut.blocks * cut.splits, transformed + cut.weightFloats(), cut.bytes(), runBlock);
  }
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
