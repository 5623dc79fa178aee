// A band: a small piece of a channels-last picture, copied with its border of zeros, so that a convolution reads every
// neighbourhood in place. Channels are cut into chunks, [chunk][row][column][chunk's channels]: neighbours along a row
// are a constant distance apart, and the taps of one kernel row are one run of memory.
#pragma once
#include "cpu/panels.h"

namespace infinity::INFINITY_ISA {
namespace {

/// A channels-last picture [B, H, W, C].
struct Picture {
  float* data;
  int64_t B, H, W, C;
  float* pixel(int64_t b, int64_t y, int64_t x) const { return data + ((b * H + y) * W + x) * C; }
};

/// Channels of a chunk: few for pictures in colour, else a cache line.
constexpr int64_t chunkOf(int64_t C) { return C <= 4 ? 4 : 16; }
constexpr int64_t chunksOf(int64_t C) { return (C + chunkOf(C) - 1) / chunkOf(C); }

struct Band {
  int64_t height, width, chunk;
  int64_t rowStride() const { return width * chunk; }
  int64_t chunkStride() const { return height * width * chunk; }
  /// Kernels may read a vector beyond the last pixel.
  int64_t elements(int64_t chunks) const { return chunks * chunkStride() + 2 * kLanes; }
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

/// Copies some chunks of picture b from pixel (y0, x0), zeros outside the picture and beyond its channels.
inline void fillBand(const Picture& from, int64_t b, int64_t y0, int64_t x0, int64_t chunk0, int64_t chunks,
                     const Band& band, float* out) {
  const auto clamp = [](int64_t v, int64_t lo, int64_t hi) { return v < lo ? lo : v > hi ? hi : v; };
  const int64_t begin = clamp(-x0, 0, band.width), end = clamp(from.W - x0, begin, band.width);
  for (int64_t c = chunk0; c < chunk0 + chunks; ++c) {
    const int64_t left = from.C - c * band.chunk, n = left < band.chunk ? left : band.chunk;
    for (int64_t y = y0; y < y0 + band.height; ++y, out += band.rowStride()) {
      if (y < 0 || y >= from.H || begin == end) {
        zeroFloats(out, band.rowStride());
        continue;
      }
      zeroFloats(out, begin * band.chunk);
      zeroFloats(out + end * band.chunk, (band.width - end) * band.chunk);
      const float* pixel = from.pixel(b, y, x0 + begin) + c * band.chunk;
      float* to = out + begin * band.chunk;
      if (n == from.C && n == band.chunk) {
        copyFloats(to, pixel, (end - begin) * band.chunk);
      } else if (n == 16) {
        for (int64_t x = begin; x < end; ++x, pixel += from.C, to += 16)
          for (int i = 0; i < 16; i += kLanes) store(to + i, load(pixel + i));
      } else {
        for (int64_t x = begin; x < end; ++x, pixel += from.C, to += band.chunk)
          for (int64_t i = 0; i < band.chunk; ++i) to[i] = i < n ? pixel[i] : 0.0f;
      }
    }
  }
}

// ---- neighbourhoods times weights

/// The terms of one sum: for each chunk and each row of the kernel, a run of `length` floats.
struct BandRuns {
  int64_t chunks, rows, length, chunkStride, rowStride;
  int64_t pixelStride;  // between the neighbourhoods of two rows of the tile
};

/// tile[r·VN·kLanes + j] = Σ over all runs of a[r·pixelStride + …]·b[…·VN·kLanes + j]; P is pixelStride, or 0 for any.
template <int R, int VN, int P>
void bandKernel(const BandRuns& runs, const float* a, const float* b, float* tile) {
  const int64_t stride = P ? P : runs.pixelStride;
  VecF acc[R][VN];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < VN; ++v) acc[r][v] = VecF{};
  }
  for (int64_t c = 0; c < runs.chunks; ++c) {
    for (int64_t y = 0; y < runs.rows; ++y) {
      const float* run = a + c * runs.chunkStride + y * runs.rowStride;
      for (const float* const end = run + runs.length; run < end; ++run, b += VN * kLanes) {
        VecF bv[VN];
        loadPanelRow<VN>(b, bv);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const VecF av = splat(run[r * stride]);
#pragma GCC unroll 4
          for (int v = 0; v < VN; ++v) acc[r][v] = fma(av, bv[v], acc[r][v]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < VN; ++v) store(tile + (r * VN + v) * kLanes, acc[r][v]);
  }
}

using BandKernel = void (*)(const BandRuns& runs, const float* a, const float* b, float* tile);

template <int VN, int P, int R = kMR>
constexpr BandKernel pickBandKernel(int rows) {
  if constexpr (R == 0) {
    return nullptr;
  } else {
    return rows == R ? &bandKernel<R, VN, P> : pickBandKernel<VN, P, R - 1>(rows);
  }
}
template <int P>
BandKernel bandKernelFor(int rows, int vectors) {
  return vectors == kVN ? pickBandKernel<kVN, P>(rows) : pickBandKernel<1, P>(rows);
}
inline BandKernel bandKernelFor(int rows, int vectors, int64_t pixelStride) {
  switch (pixelStride) {
    case 4:
      return bandKernelFor<4>(rows, vectors);
    case 16:
      return bandKernelFor<16>(rows, vectors);
    case 32:
      return bandKernelFor<32>(rows, vectors);
    default:
      return bandKernelFor<0>(rows, vectors);
  }
}

// ---- gradients times neighbourhoods

/// Tile of the weight gradient: output channels times vectors along one kernel row.
constexpr int kGradVN = 3;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kGradMR = 8;
#else
constexpr int kGradMR = 4;
#endif

/// The pixels of one sum: rows of `columns`, in the gradient and in the band.
struct GradPixels {
  int64_t rows, columns;
  int64_t yRow, yPixel;        // strides in the gradient
  int64_t bandRow, bandPixel;  // strides in the band
};

/// tile[r·VN·kLanes + j] = Σ over pixels of y[… + r]·band[… + j].
template <int R, int VN>
void gradKernel(const GradPixels& at, const float* y, const float* band, float* tile) {
  VecF acc[R][VN];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < VN; ++v) acc[r][v] = VecF{};
  }
  for (int64_t row = 0; row < at.rows; ++row) {
    const float* a = y + row * at.yRow;
    const float* b = band + row * at.bandRow;
    for (int64_t k = 0; k < at.columns; ++k, a += at.yPixel, b += at.bandPixel) {
      VecF bv[VN];
      loadPanelRow<VN>(b, bv);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const VecF av = splat(a[r]);
#pragma GCC unroll 4
        for (int v = 0; v < VN; ++v) acc[r][v] = fma(av, bv[v], acc[r][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < VN; ++v) store(tile + (r * VN + v) * kLanes, acc[r][v]);
  }
}

using GradKernel = void (*)(const GradPixels& at, const float* y, const float* band, float* tile);

template <int VN, int R = kGradMR>
constexpr GradKernel pickGradKernel(int rows) {
  if constexpr (R == 0) {
    return nullptr;
  } else {
    return rows == R ? &gradKernel<R, VN> : pickGradKernel<VN, R - 1>(rows);
  }
}
inline GradKernel gradKernelFor(int rows, int vectors) {
  return vectors == 3 ? pickGradKernel<3>(rows) : vectors == 2 ? pickGradKernel<2>(rows) : pickGradKernel<1>(rows);
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
