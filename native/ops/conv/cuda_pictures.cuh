// Pictures [B, H, W, C] as operands and results of matrix products, without a matrix of neighbourhoods: positions of a
// grid are the product's rows (or the terms of its sum), taps and channels its terms (or columns).
#pragma once
#include "cuda/moments.cuh"
#include "cuda/operands.cuh"
#include "cuda/walk.cuh"
#include "ops/conv/conv.h"

namespace infinity::cuda {
namespace {

// Positions laid over pictures: position (y, x) is pixel (y·step + y0, x·step + x0), which may lie outside. Part p of a
// product is p / 2 rows and p % 2 columns further: that is how the four phases of an upsampling differ.
struct PixelGrid {
  Divisor<uint32_t> rows, columns;
  int count;  // in all pictures
  int step, y0, x0;

  PixelGrid(int64_t pictures, int64_t rows, int64_t columns, int64_t step, int64_t y0, int64_t x0)
      : rows(rows),
        columns(columns),
        count(static_cast<int>(pictures * rows * columns)),
        step(static_cast<int>(step)),
        y0(static_cast<int>(y0)),
        x0(static_cast<int>(x0)) {}

  struct Pixel {
    int picture, y, x;
  };
  __device__ __forceinline__ Pixel at(int position) const {
    const uint32_t line = columns.divide(static_cast<uint32_t>(position)), picture = rows.divide(line);
    const int y = static_cast<int>(line - picture * rows.value);
    const int x = position - static_cast<int>(line * columns.value);
    return {static_cast<int>(picture), y * step + y0, x * step + x0};
  }
  __device__ __forceinline__ void shift(int part) {
    y0 += part / 2;
    x0 += part % 2;
  }
};

template <class T>
struct PictureOf {
  T* data;
  int height, width, channels;

  PictureOf(const TensorView& t)
      : data(t.as<T>()),
        height(static_cast<int>(t.dims[1])),
        width(static_cast<int>(t.dims[2])),
        channels(static_cast<int>(t.dims[3])) {}
  __device__ __forceinline__ bool has(int y, int x) const {
    return static_cast<unsigned>(y) < static_cast<unsigned>(height) &&
           static_cast<unsigned>(x) < static_cast<unsigned>(width);
  }
  // Number of the first channel of a pixel; pictures have fewer than 2³¹ pixels.
  __device__ __forceinline__ int64_t offset(int picture, int y, int x) const {
    return static_cast<int64_t>((picture * height + y) * width + x) * channels;
  }
};

constexpr int kOutside = -(1 << 30);  // a row of no picture

// Rows are positions, terms are taps and their channels: term k = (i·tapColumns + j)·C + c reads channel c of the pixel
// i rows below and j columns behind the position's.
template <class T>
struct Neighbourhoods {
  using Element = T;
  static constexpr bool kSumFast = true;
  PictureOf<const T> picture;
  const T* data;
  PixelGrid grid;
  Divisor<uint32_t> channels, tapColumns;
  int sums;
  bool whole;

  Neighbourhoods(const TensorView& t, const PixelGrid& grid, const Phase& phase, bool whole)
      : picture(t),
        data(picture.data),
        grid(grid),
        channels(picture.channels),
        tapColumns(phase.x.count > 0 ? phase.x.count : 1),
        sums(phase.taps() * picture.channels),
        whole(whole) {}

  struct Line {
    int64_t start;
    int y, x;
  };
  __device__ __forceinline__ Line line(int m) const {
    const PixelGrid::Pixel p = grid.at(m);
    return {picture.offset(p.picture, p.y, p.x), m < grid.count ? p.y : kOutside, p.x};
  }
  __device__ __forceinline__ const T* at(const Line& line, int k) const {
    const int tap = static_cast<int>(channels.divide(static_cast<uint32_t>(k)));
    const int i = static_cast<int>(tapColumns.divide(static_cast<uint32_t>(tap)));
    const int j = tap - i * static_cast<int>(tapColumns.value);
    if (k >= sums || !picture.has(line.y + i, line.x + j)) return nullptr;
    // Taps of a row follow one another in memory as they do in the sum.
    return data + line.start + (k + i * (picture.width - static_cast<int>(tapColumns.value)) * picture.channels);
  }
  __device__ __forceinline__ Neighbourhoods select(int part) const {
    Neighbourhoods selected = *this;
    selected.grid.shift(part);
    return selected;
  }
};
template <class T>
Neighbourhoods<T> neighbourhoods(const TensorView& t, const PixelGrid& grid, const Phase& phase) {
  return {t, grid, phase, inChunks<T>(t.as<T>(), t.cols())};
}

// The transposed operand of a weight's gradient: rows are taps and their channels, terms are positions. With one tap it
// is the picture's channels at the positions.
template <class T>
struct NeighbourhoodColumns {
  using Element = T;
  static constexpr bool kSumFast = false;
  PictureOf<const T> picture;
  const T* data;
  PixelGrid grid;
  Divisor<uint32_t> channels, tapColumns;
  int rows;
  bool whole;

  NeighbourhoodColumns(const TensorView& t, const PixelGrid& grid, int taps, int tapColumns, bool whole)
      : picture(t),
        data(picture.data),
        grid(grid),
        channels(picture.channels),
        tapColumns(tapColumns),
        rows(taps * picture.channels),
        whole(whole) {}

  struct Line {
    int i, j, channel;
  };
  __device__ __forceinline__ Line line(int m) const {
    const int tap = static_cast<int>(channels.divide(static_cast<uint32_t>(m)));
    const int i = static_cast<int>(tapColumns.divide(static_cast<uint32_t>(tap)));
    return {m < rows ? i : kOutside, tap - i * static_cast<int>(tapColumns.value), m - tap * picture.channels};
  }
  __device__ __forceinline__ const T* at(const Line& line, int k) const {
    const PixelGrid::Pixel p = grid.at(k);
    const int y = p.y + line.i, x = p.x + line.j;
    return k < grid.count && picture.has(y, x) ? data + picture.offset(p.picture, y, x) + line.channel : nullptr;
  }
  __device__ __forceinline__ NeighbourhoodColumns select(int part) const {
    NeighbourhoodColumns selected = *this;
    selected.grid.shift(part);
    return selected;
  }
};
template <class T>
NeighbourhoodColumns<T> neighbourhoodColumns(const TensorView& t, const PixelGrid& grid, int taps, int tapColumns) {
  return {t, grid, taps, tapColumns, inChunks<T>(t.as<T>(), t.cols())};
}

// Sums of a position leave for its pixel, with the bias of their channel and what the residual has there.
struct PixelEpilogue {
  static constexpr bool kRowSums = false, kMoments = false, kRowMoments = false, kRowFacts = false;
  PictureOf<void> picture;
  PixelGrid grid;
  Floats y, bias, residual;
  bool whole;

  PixelEpilogue(const TensorView& y, const PixelGrid& grid, const TensorView& bias, const TensorView& residual)
      : picture(y),
        grid(grid),
        y(floatsOf(y)),
        bias(floatsOf(bias)),
        residual(floatsOf(residual)),
        whole(inQuads(y, y.cols()) && (!bias || inQuads(bias, y.cols())) &&
              (!residual || inQuads(residual, y.cols()))) {}

  __device__ __forceinline__ PixelEpilogue select(const BlockWork& work) const {
    PixelEpilogue selected = *this;
    selected.grid.shift(work.part);
    return selected;
  }
  template <int W>
  __device__ __forceinline__ void operator()(int row, int column, float (&v)[W]) const {
    const PixelGrid::Pixel p = grid.at(row);
    const int n = picture.channels - column;
    const int64_t at = picture.offset(p.picture, p.y, p.x) + column;
    float by[W];
    if (bias) {
      bias.read(column, whole, n, by);
#pragma unroll
      for (int i = 0; i < W; ++i) v[i] += by[i];
    }
    if (residual) {
      residual.read(at, whole, n, by);
#pragma unroll
      for (int i = 0; i < W; ++i) v[i] += by[i];
    }
    y.write(at, whole, n, v);
  }
};

// The same, and the moments of what was stored: [sample][part][run of rows][mean, squared deviations][channels]. A
// picture's positions are whole runs.
struct MeasuredPixels : PixelEpilogue {
  static constexpr bool kMoments = true;
  float* rows;
  Divisor<uint32_t> runs;  // of a picture in each part
  int parts, part = 0;

  MeasuredPixels(const PixelEpilogue& pixels, float* rows, int64_t runs, int64_t parts)
      : PixelEpilogue(pixels), rows(rows), runs(runs), parts(static_cast<int>(parts)) {}

  __device__ __forceinline__ MeasuredPixels select(const BlockWork& work) const {
    MeasuredPixels selected = *this;
    selected.grid.shift(work.part);
    selected.part = work.part;
    return selected;
  }
  template <int W>
  __device__ __forceinline__ void operator()(int row, int column, float (&v)[W]) const {
    PixelEpilogue::operator()(row, column, v);
    if (!y.half) return;
#pragma unroll
    for (int i = 0; i < W; ++i) v[i] = toFloat(fromFloat<bf16>(v[i]));
  }
  __device__ __forceinline__ void moments(int row, int column, const RunMoments& of) const {
    const int run = row / kMomentRun, sample = static_cast<int>(runs.divide(static_cast<uint32_t>(run)));
    const int inPart = run - sample * static_cast<int>(runs.value);
    float* const to =
        rows +
        static_cast<int64_t>((sample * parts + part) * static_cast<int>(runs.value) + inPart) * 2 * picture.channels +
        column;
    to[0] = of.mean();
    to[picture.channels] = of.deviation();
  }
};

}  // namespace
}  // namespace infinity::cuda
