// Statistics of the groups of channels of a picture. Every run of pixels is summed on its own, channel by channel; one
// block a group merges the runs.
#pragma once
#include "cuda/moments.cuh"
#include "cuda/reduce.cuh"
#include "ops/norm/cuda_tiles.cuh"

namespace infinity::cuda {
namespace {

// Enough blocks for every card; more would only make the merging longer.
constexpr int64_t kMostPixelBlocks = 2048;
constexpr int kMergeThreads = 256;
// Blocks that a processor has at once: as many as the registers of a thread's channels allow.
template <class T>
constexpr int kTilesAtOnce = sizeof(T) == 4 ? 4 : 2;

inline ColumnTiles pixelTiles(const TensorView& x) {
  const int64_t batch = x.dims[0];
  return {batch, x.size() / batch / x.cols(), x.cols(), x.dtype, kMostPixelBlocks};
}

// Two numbers of every channel of every run: [sample][run][2][channels].
inline size_t runBytes(const ColumnTiles& t) {
  return static_cast<size_t>(t.groups * t.runs * 2 * t.cols) * sizeof(float);
}

// What is summed: rows that are a pixel each,
template <class T, bool Packed>
struct PixelRows {
  using Element = T;
  static constexpr int kPixels = 1;
  const T* data;

  template <int V>
  __device__ __forceinline__ void read(int64_t row, const ColumnTiles& t, const TilePlace& p, float (&value)[V],
                                       float (&)[V]) const {
    loadFloats<Packed>(data + row * t.cols + p.column, p.left, value);
  }
};
// or the moments of several pixels that a convolution left, [row][mean, squared deviations][channels].
template <bool Packed>
struct MomentsOfRows {
  using Element = float;
  static constexpr int kPixels = kMomentRun;
  const float* data;

  template <int V>
  __device__ __forceinline__ void read(int64_t row, const ColumnTiles& t, const TilePlace& p, float (&mean)[V],
                                       float (&deviations)[V]) const {
    const float* at = data + row * 2 * t.cols + p.column;
    float more[V];
    loadFloats<Packed>(at, p.left, mean);
    loadFloats<Packed>(at + t.cols, p.left, more);
#pragma unroll
    for (int j = 0; j < V; ++j) deviations[j] += more[j];
  }
};

// Mean of each channel in the run, and squared deviations from it. A thread sums relative to its first row, so that a
// mean far from zero costs no digits.
template <class Rows>
__global__ void __launch_bounds__(kTileThreads, kTilesAtOnce<typename Rows::Element>)
    channelMoments(ColumnTiles t, const Rows rows, float* __restrict__ moments) {
  constexpr int V = kPerPack<typename Rows::Element>;
  __shared__ float means[kTileThreads * V], squares[kTileThreads * V];
  const TilePlace p = placeOf<V>(t, blockIdx.x);
  const int64_t first = p.first + threadIdx.y, ofGroup = p.group * t.rows;
  float origin[V] = {}, sum[V] = {}, square[V] = {}, within[V] = {};
  if (first < p.last) rows.read(ofGroup + first, t, p, origin, within);
#pragma unroll 4
  for (int64_t row = first + t.down; row < p.last; row += t.down) {
    float d[V];
    rows.read(ofGroup + row, t, p, d, within);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      d[j] -= origin[j];
      sum[j] += d[j];
      square[j] = fmaf(d[j], d[j], square[j]);
    }
  }
  // Of the rows of line y of threads; 0 where the run is shorter than the threads are many.
  const auto rowsOf = [&](int y) { return static_cast<float>((p.last - p.first - y + t.down - 1) / t.down); };
  const int width = t.across * V, y = static_cast<int>(threadIdx.y);
  const float n = rowsOf(y);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const int cell = y * width + static_cast<int>(threadIdx.x) * V + j;
    const float off = n > 0 ? sum[j] / n : 0.0f;
    means[cell] = origin[j] + off;
    squares[cell] = (square[j] - sum[j] * off) * Rows::kPixels + within[j];
  }
  __syncthreads();
  const int i = y * t.across + static_cast<int>(threadIdx.x);
  const int column = p.column - static_cast<int>(threadIdx.x) * V + i;
  if (i >= width || column >= t.cols) return;
  const int lines = p.last - p.first < t.down ? static_cast<int>(p.last - p.first) : t.down;
  const float about = means[i];
  float total = 0, deviation = 0;
  for (int line = 0; line < lines; ++line) total = fmaf(rowsOf(line), means[line * width + i] - about, total);
  const float mean = about + total / static_cast<float>(p.last - p.first);
  for (int line = 0; line < lines; ++line) {
    const float off = means[line * width + i] - mean;
    deviation += fmaf(rowsOf(line) * Rows::kPixels * off, off, squares[line * width + i]);
  }
  float* to = moments + (p.group * t.runs + p.run) * 2 * t.cols + column;
  to[0] = mean;
  to[t.cols] = deviation;
}

// The statistics [sample, group, 2], from the moments of the group's channels in every run; a row of t is so many
// pixels.
template <int Pixels>
__global__ void __launch_bounds__(kMergeThreads)
    mergeMoments(ColumnTiles t, int groups, float eps, const float* moments, float* stats) {
  __shared__ float slots[kMergeThreads / kWarp];
  const int width = t.cols / groups, pairs = static_cast<int>(t.runs) * width;
  const int sample = static_cast<int>(blockIdx.x) / groups, group = static_cast<int>(blockIdx.x) % groups;
  const float* parts = moments + sample * t.runs * 2 * t.cols + group * width;
  const float about = parts[0], count = static_cast<float>(t.rows * width * Pixels);
  const auto pixelsIn = [&](int run) {
    const int64_t left = t.rows - run * t.perRun;
    return static_cast<float>((left < t.perRun ? left : t.perRun) * Pixels);
  };
  float total = 0, deviation = 0;
  for (int i = static_cast<int>(threadIdx.x); i < pairs; i += kMergeThreads) {
    const int run = i / width;
    total = fmaf(pixelsIn(run), parts[run * int64_t{2} * t.cols + i % width] - about, total);
  }
  const float mean = about + blockReduce<kMergeThreads>(total, slots) / count;
  // The squares about the mean of the run, and the mean of the run about that of the group.
  for (int i = static_cast<int>(threadIdx.x); i < pairs; i += kMergeThreads) {
    const int run = i / width;
    const float* part = parts + run * int64_t{2} * t.cols + i % width;
    const float off = part[0] - mean;
    deviation += fmaf(pixelsIn(run) * off, off, part[t.cols]);
  }
  deviation = blockReduce<kMergeThreads>(deviation, slots);
  if (threadIdx.x > 0) return;
  stats[2 * blockIdx.x] = mean;
  stats[2 * blockIdx.x + 1] = 1.0f / sqrtf(deviation / count + eps);
}

inline LaunchShape mergeShape(const ColumnTiles& t, uint32_t groups) {
  return {dim3(static_cast<unsigned>(t.groups) * groups), dim3(kMergeThreads), 0};
}

template <class Rows>
void launchMoments(const KernelArgs& a, const ColumnTiles& t, const Rows& rows, uint32_t groups, float eps,
                   float* moments, float* stats) {
  launch(a, "group_norm: moments", channelMoments<Rows>, t.shape(), t, rows, moments);
  launch(a, "group_norm: merge", mergeMoments<Rows::kPixels>, mergeShape(t, groups), t, static_cast<int>(groups), eps,
         moments, stats);
}

// Of the picture x; `moments` has room for runBytes.
inline void launchStats(const KernelArgs& a, const TensorView& x, uint32_t groups, float eps, float* moments,
                        float* stats) {
  const ColumnTiles t = pixelTiles(x);
  withElement(x.dtype, [&](auto element) {
    withFlag(onPacks(t.cols, {x}), [&](auto packed) {
      using T = decltype(element);
      launchMoments(a, t, PixelRows<T, decltype(packed)::value>{x.as<T>()}, groups, eps, moments, stats);
    });
  });
}

// Of pictures of which [sample][row][mean, squared deviations][channels] is known for every kMomentRun pixels.
inline ColumnTiles momentTiles(int64_t samples, int64_t rows, int64_t channels) {
  return {samples, rows, channels, DType::f32, kMostPixelBlocks};
}
inline void launchStatsOfMoments(const KernelArgs& a, const ColumnTiles& t, const float* rows, uint32_t groups,
                                 float eps, float* moments, float* stats) {
  withFlag(t.cols % kPerPack<float> == 0, [&](auto packed) {
    launchMoments(a, t, MomentsOfRows<decltype(packed)::value>{rows}, groups, eps, moments, stats);
  });
}

}  // namespace
}  // namespace infinity::cuda
