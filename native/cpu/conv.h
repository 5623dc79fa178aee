// Convolutions as matrix products without the matrix. A convolution is one or more phases, each a rectangle of taps on
// a grid of pixels:
//   out(b, y·outStep + oy, x·outStep + ox) = Σ_taps in(b, y·inStep + dy, x·inStep + dx) · W_tap,
// zero outside the picture. The sum runs over chunks of channels, then taps, then the channels of a chunk; its order
// depends on nothing else.
#pragma once
#include "core/taps.h"
#include "cpu/band.h"
#include "cpu/gemm_outer.h"

namespace infinity::INFINITY_ISA {
namespace {

/// Where the positions of a phase lie in the picture that it is written to (or whose gradient it reads).
struct Placement {
  int64_t rows, columns;  // positions in one picture
  int64_t step, y0, x0;   // position (y, x) is pixel (y·step + y0, x·step + x0)
};
inline Placement everyPixel(const Picture& p) { return {p.H, p.W, 1, 0, 0}; }
inline Placement everySecond(const Picture& p, int64_t step, int64_t y0, int64_t x0) {
  return {ceilDiv(p.H - y0, step), ceilDiv(p.W - x0, step), step, y0, x0};
}

/// Positions that one tile of the pool computes: a rectangle of one picture.
struct TileShape {
  int64_t rows, columns;
  Band band(const Phase& phase, int64_t inStep, int64_t C) const {
    return {(rows - 1) * inStep + phase.y.count, (columns - 1) * inStep + phase.x.count, chunkOf(C)};
  }
};
/// About 256 positions in rows of at most 64: a function of the grid alone.
inline TileShape tileShape(const Placement& at) {
  const int64_t columns = ceilDiv(at.columns, ceilDiv(at.columns, 64));
  const int64_t rows = 256 / columns;
  return {rows < 1 ? 1 : rows < at.rows ? rows : at.rows, columns};
}

/// Terms of a sum of the product: those of as many whole chunks as stay below this are added up in registers.
constexpr int64_t kMostTerms = 1024;

/// Rows of the packed weights of a phase.
inline int64_t phaseTerms(const Phase& phase, int64_t C) { return chunksOf(C) * chunkOf(C) * phase.taps(); }

/// Packs the weights of a phase in the order of its sum. `weights` holds element (n, c, entry of the kernel) at
/// n·strideN + c·strideC + entry.
template <class B, class S>
void packPhase(Pool& pool, const Panels<B>& to, const Phase& phase, const S* weights, int64_t C, int64_t strideC,
               int64_t strideN) {
  const int64_t chunk = chunkOf(C), taps = phase.taps();
  pool.parallelFor(to.count() * chunksOf(C), [&](int64_t job) {
    const int64_t p = job / chunksOf(C), first = job % chunksOf(C) * chunk;
    const int columns = static_cast<int>(to.columns(p)), vectors = to.vectors(p);
    for (int64_t t = 0; t < taps; ++t) {
      for (int64_t c = first; c < first + chunk; ++c) {
        alignas(64) float row[kNR] = {};
        if (c < C) {
          phase.forEachWeight(static_cast<int>(t / phase.x.count), static_cast<int>(t % phase.x.count), [&](int entry) {
            const S* from = weights + p * kNR * strideN + c * strideC + entry;
            for (int j = 0; j < columns; ++j) row[j] += asFloat(from[j * strideN]);
          });
        }
        storeRow(to.panel(p), (first * taps + t * chunk) + c - first, row, vectors);
      }
    }
  });
}

/// How the tiles of a phase are shared out. Has no influence on the result.
struct ConvCut {
  TileShape tile;
  Band band;
  int64_t tilesY, tilesX, groups;  // groups of panels
  ConvCut(const Picture& in, int64_t inStep, const Placement& at, const Phase& phase, int64_t panels, int threads)
      : tile(tileShape(at)), groups(1) {
    const auto tiles = [&] { return in.B * ceilDiv(at.rows, tile.rows) * ceilDiv(at.columns, tile.columns); };
    while (threads > 1 && tiles() < 4 * threads && tile.rows > 2) tile.rows = (tile.rows + 1) / 2;
    while (threads > 1 && tiles() * groups < 2 * threads && groups < panels) ++groups;
    band = tile.band(phase, inStep, in.C);
    tilesY = ceilDiv(at.rows, tile.rows);
    tilesX = ceilDiv(at.columns, tile.columns);
  }
  size_t bytes(int64_t C) const { return ceilDiv(band.elements(chunksOf(C)), 16) * 64; }
};

/// out at its positions = epilogue(neighbourhoods of `in`, a step apart, · weights).
template <class Epilogue>
void convolve(Pool& pool, const Picture& in, int64_t inStep, const Picture& out, const Placement& at,
              const Phase& phase, const Panels<float>& weights, const Epilogue& epilogue, void* memory) {
  const ConvCut cut(in, inStep, at, phase, weights.count(), pool.threads());
  const int64_t chunks = chunksOf(in.C), perChunk = chunkOf(in.C) * phase.taps();
  const int64_t together = perChunk == 0 || kMostTerms < perChunk ? 1 : kMostTerms / perChunk;
  const int64_t tiles = in.B * cut.tilesY * cut.tilesX, perGroup = ceilDiv(weights.count(), cut.groups);
  parallelForWithMemory(pool, tiles * cut.groups, memory, cut.bytes(in.C), [&](int64_t t, void* mine) {
    float* const band = static_cast<float*>(mine);
    const int64_t b = t / cut.groups / (cut.tilesY * cut.tilesX), p0 = t % cut.groups * perGroup;
    const int64_t p1 = p0 + perGroup < weights.count() ? p0 + perGroup : weights.count();
    const int64_t y0 = t / cut.groups / cut.tilesX % cut.tilesY * cut.tile.rows;
    const int64_t x0 = t / cut.groups % cut.tilesX * cut.tile.columns;
    const int64_t y1 = y0 + cut.tile.rows < at.rows ? y0 + cut.tile.rows : at.rows;
    const int64_t x1 = x0 + cut.tile.columns < at.columns ? x0 + cut.tile.columns : at.columns;
    fillBand(in, b, y0 * inStep + phase.y.first, x0 * inStep + phase.x.first, 0, chunks, cut.band, band);
    alignas(64) float tile[kMR * kNR];
    float* outRows[kMR];
    BandRuns runs = {0,
                     phase.y.count,
                     phase.x.count * cut.band.chunk,
                     cut.band.chunkStride(),
                     cut.band.rowStride(),
                     inStep * cut.band.chunk};
    for (int64_t p = p0; p < p1; ++p) {
      const int vectors = weights.vectors(p);
      for (int64_t c = 0; c < chunks; c += together) {
        runs.chunks = c + together < chunks ? together : chunks - c;
        const float* panel = weights.panel(p) + c * perChunk * vectors * kLanes;
        for (int64_t y = y0; y < y1; ++y) {
          for (int64_t x = x0, width; x < x1; x += width) {
            width = tileRows(x1 - x);
            const int w = static_cast<int>(width);
            float* to = out.pixel(b, y * at.step + at.y0, x * at.step + at.x0);
            for (int i = 0; i < w; ++i) {
              outRows[i] = to + i * at.step * out.C;
              __builtin_prefetch(outRows[i] + p * kNR, 1);
            }
            const float* a = band + c * cut.band.chunkStride() + (y - y0) * inStep * cut.band.rowStride() +
                             (x - x0) * runs.pixelStride;
            bandKernelFor(w, vectors, runs.pixelStride)(runs, a, panel, tile);
            storeTile(tile, w, vectors, p * kNR, weights.N, outRows, 0, c == 0, c + together >= chunks, epilogue);
          }
        }
      }
    }
  });
}

/// Pixels as rows of a product, with zeros up to whole chunks: a 1 × 1 convolution of every pixel needs no band.
struct PixelRows {
  const float* data;
  int64_t C;
  void gather(int64_t r, int rows, int64_t k0, int kc, float* tile) const {
    const int64_t n = C - k0 < kc ? C - k0 : kc;
    for (int i = 0; i < rows; ++i, tile += kRowStride) {
      copyFloats(tile, data + (r + i) * C + k0, n);
      zeroFloats(tile + n, kc - n);
    }
  }
  void prefetch(int64_t r, int64_t k0, int kc) const { prefetchFloats(data + r * C + k0, kc); }
};

// ---- weight gradients

/// The partial sums of one phase: [segment][O][chunk][row of the kernel][width], where width is a kernel row in
/// vectors.
struct GradientLayout {
  int64_t O, chunks, rows, width, tiles;
  Segments segments;  // of tiles
  TileShape tile;
  GradientLayout(int64_t B, const Placement& at, const Phase& phase, int64_t O, int64_t C)
      : O(O),
        chunks(chunksOf(C)),
        rows(phase.y.count),
        width(ceilDiv(phase.x.count * chunkOf(C), kLanes) * kLanes),
        tile(tileShape(at)) {
    tiles = B * ceilDiv(at.rows, tile.rows) * ceilDiv(at.columns, tile.columns);
    const int64_t count = segmentsOf(B * at.rows * at.columns, O, columns()).count;
    segments.rows = ceilDiv(tiles, count);
    segments.count = ceilDiv(tiles, segments.rows);
  }
  int64_t columns() const { return chunks * rows * width; }
  int64_t elements() const { return segments.count * O * columns(); }
  int64_t sums() const { return segments.count * O; }
};

/// Most chunks of a band in the gradient, so that it stays in the second-level cache.
constexpr int64_t kGradChunks = 8;

inline size_t gradientScratch(const GradientLayout& layout, int64_t inStep, const Phase& phase, int64_t C) {
  const int64_t chunks = layout.chunks < kGradChunks ? layout.chunks : kGradChunks;
  return ceilDiv(layout.tile.band(phase, inStep, C).elements(chunks), 16) * 64;
}

/// sums[o] (+)= Σ over pixels of y[… + o] for o0 ≤ o < o1.
inline void addPixels(const GradPixels& at, const float* y, int64_t o0, int64_t o1, bool first, float* sums) {
  constexpr int kChains = 4;
  for (int64_t o = o0; o < o1; o += kLanes) {
    const int n = o1 - o < kLanes ? static_cast<int>(o1 - o) : kLanes;
    VecF chain[kChains] = {};
    for (int64_t row = 0; row < at.rows; ++row) {
      const float* from = y + row * at.yRow + o;
      for (int64_t k = 0; k < at.columns; ++k, from += at.yPixel)
        chain[k % kChains] = chain[k % kChains] + loadUpTo(from, n);
    }
    const VecF sum = (chain[0] + chain[1]) + (chain[2] + chain[3]);
    storeUpTo(sums + o, first ? sum : loadUpTo(sums + o, n) + sum, n);
  }
}

/// partial = Σ over positions of the gradient `dy` at them times the neighbourhoods of x; sums[segment][O] = Σ dy.
inline void convolveGradient(Pool& pool, const Picture& dy, const Placement& at, const Picture& x, int64_t inStep,
                             const Phase& phase, const GradientLayout& layout, float* partial, float* sums,
                             void* memory) {
  int64_t groups = ceilDiv(layout.chunks, kGradChunks), blocks = 1;  // of chunks, of output channels
  while (pool.threads() > 1 && layout.segments.count * groups < 2 * pool.threads() && groups < layout.chunks) ++groups;
  while (pool.threads() > 1 && layout.segments.count * groups * blocks < 2 * pool.threads() &&
         blocks * kGradMR < layout.O) {
    ++blocks;
  }
  const int64_t perGroup = ceilDiv(layout.chunks, groups);
  const int64_t perBlock = ceilDiv(ceilDiv(layout.O, blocks), kGradMR) * kGradMR;
  const int64_t tilesX = ceilDiv(at.columns, layout.tile.columns), tilesY = ceilDiv(at.rows, layout.tile.rows);
  const Band band = layout.tile.band(phase, inStep, x.C);
  // Four vectors are two and two rather than three and one.
  const int64_t together = ceilDiv(layout.width / kLanes, ceilDiv(layout.width / kLanes, kGradVN));
  const auto least = [](int64_t a, int64_t b) { return a < b ? a : b; };
  const size_t bytes = gradientScratch(layout, inStep, phase, x.C);
  parallelForWithMemory(pool, layout.segments.count * groups * blocks, memory, bytes, [&](int64_t t, void* mine) {
    float* const copy = static_cast<float*>(mine);
    alignas(64) float tile[kGradMR * kGradVN * kLanes];
    float* outRows[kGradMR];
    const int64_t s = t / (groups * blocks), group = t / blocks % groups, block = t % blocks;
    const int64_t c0 = group * perGroup, c1 = least(c0 + perGroup, layout.chunks);
    const int64_t o0 = block * perBlock, o1 = least(o0 + perBlock, layout.O);
    if (c0 >= c1 || o0 >= o1) return;
    float* const out = partial + s * layout.O * layout.columns();
    const int64_t first = s * layout.segments.rows, end = least(first + layout.segments.rows, layout.tiles);
    for (int64_t i = first; i < end; ++i) {
      const int64_t b = i / (tilesX * tilesY), y0 = i / tilesX % tilesY * layout.tile.rows;
      const int64_t x0 = i % tilesX * layout.tile.columns;
      const float* gradient = dy.pixel(b, y0 * at.step + at.y0, x0 * at.step + at.x0);
      const GradPixels pixels = {least(layout.tile.rows, at.rows - y0),
                                 least(layout.tile.columns, at.columns - x0),
                                 at.step * dy.W * dy.C,
                                 at.step * dy.C,
                                 inStep * band.rowStride(),
                                 inStep * band.chunk};
      fillBand(x, b, y0 * inStep + phase.y.first, x0 * inStep + phase.x.first, c0, c1 - c0, band, copy);
      if (group == 0) addPixels(pixels, gradient, o0, o1, i == first, sums + s * layout.O);
      for (int64_t o = o0, height; o < o1; o += height) {
        height = least(kGradMR, o1 - o);
        const int h = static_cast<int>(height);
        for (int64_t c = c0; c < c1; ++c) {
          for (int64_t ky = 0; ky < layout.rows; ++ky) {
            const float* from = copy + (c - c0) * band.chunkStride() + ky * band.rowStride();
            float* to = out + (c * layout.rows + ky) * layout.width;
            for (int j = 0; j < h; ++j) outRows[j] = to + (o + j) * layout.columns();
            for (int64_t j = 0; j < layout.width; j += together * kLanes) {
              const int vectors = static_cast<int>(least(together, (layout.width - j) / kLanes));
              gradKernelFor(h, vectors)(pixels, gradient + o, from + j, tile);
              storeTile(tile, h, vectors, j, layout.width, outRows, 0, i == first, false, AddBias{nullptr});
            }
          }
        }
      }
    }
  });
}

/// dw[o][c][entry] += Σ_segments partial for every entry of the kernel that a tap sums.
inline void addGradient(Pool& pool, const float* partial, const GradientLayout& layout, const Phase& phase, int64_t C,
                        int64_t kernelTaps, float* dw) {
  const int64_t chunk = chunkOf(C);
  pool.parallelFor(layout.O, [&](int64_t o) {
    for (int64_t c = 0; c < C; ++c) {
      for (int i = 0; i < phase.y.count; ++i) {
        for (int j = 0; j < phase.x.count; ++j) {
          const float* from =
              partial + o * layout.columns() + (c / chunk * layout.rows + i) * layout.width + j * chunk + c % chunk;
          float sum = from[0];
          for (int64_t s = 1; s < layout.segments.count; ++s) sum += from[s * layout.O * layout.columns()];
          phase.forEachWeight(i, j, [&](int entry) { dw[(o * C + c) * kernelTaps + entry] += sum; });
        }
      }
    }
  });
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
