// Group normalisation of channels-last pictures, with SiLU fused. Every run of pixels is summed on its own, channel by
// channel; one block a group merges the runs; then the pixels are gone over once more, last ones first, because those
// are still in the cache. A tile's threads keep their channels, and with them everything that belongs to a channel.
#pragma once
#include "cuda/chunk.cuh"
#include "cuda/launch.h"
#include "cuda/math.cuh"
#include "cuda/reduce.cuh"
#include "ops/norm/cuda_columns.cuh"
#include "ops/norm/norm.h"

namespace infinity::cuda {
namespace {

// Enough blocks for every card; more would only make the merging longer.
constexpr int64_t kMostPixelBlocks = 2048;
constexpr int kMergeThreads = 256;
// Blocks that a processor has at once: as many as the registers of a thread's channels allow.
template <class T>
constexpr int kTilesAtOnce = sizeof(T) == 4 ? 4 : 2;

ColumnTiles pixelTiles(const TensorView& x) {
  const int64_t batch = x.dims[0];
  return {batch, x.size() / batch / x.cols(), x.cols(), x.dtype, kMostPixelBlocks};
}

// Two numbers of every channel of every run: [sample][run][2][channels].
size_t runBytes(const ColumnTiles& t) { return static_cast<size_t>(t.groups * t.runs * 2 * t.cols) * sizeof(float); }

// --- statistics

// Mean of each channel in the run, and squared deviations from it. A thread sums relative to its first pixel, so that a
// mean far from zero costs no digits.
template <class T, bool Packed>
__global__ void __launch_bounds__(kTileThreads, kTilesAtOnce<T>)
    channelMoments(ColumnTiles t, const T* __restrict__ x, float* __restrict__ moments) {
  constexpr int V = kPerPack<T>;
  __shared__ float means[kTileThreads * V], squares[kTileThreads * V];
  const TilePlace p = placeOf<V>(t, blockIdx.x);
  const T* pixels = x + p.group * t.rows * t.cols + p.column;
  const int64_t first = p.first + threadIdx.y;
  float origin[V] = {}, sum[V] = {}, square[V] = {};
  if (first < p.last) loadFloats<Packed>(pixels + first * t.cols, p.left, origin);
#pragma unroll 4
  for (int64_t pixel = first + t.down; pixel < p.last; pixel += t.down) {
    float d[V];
    loadFloats<Packed>(pixels + pixel * t.cols, p.left, d);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      d[j] -= origin[j];
      sum[j] += d[j];
      square[j] = fmaf(d[j], d[j], square[j]);
    }
  }
  // Of the pixels of row y of threads; 0 where the run is shorter than the threads are many.
  const auto pixelsOf = [&](int y) { return static_cast<float>((p.last - p.first - y + t.down - 1) / t.down); };
  const int width = t.across * V, y = static_cast<int>(threadIdx.y);
  const float n = pixelsOf(y);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const int cell = y * width + static_cast<int>(threadIdx.x) * V + j;
    const float off = n > 0 ? sum[j] / n : 0.0f;
    means[cell] = origin[j] + off;
    squares[cell] = square[j] - sum[j] * off;
  }
  __syncthreads();
  const int i = y * t.across + static_cast<int>(threadIdx.x);
  const int column = p.column - static_cast<int>(threadIdx.x) * V + i;
  if (i >= width || column >= t.cols) return;
  const int rows = p.last - p.first < t.down ? static_cast<int>(p.last - p.first) : t.down;
  const float about = means[i];
  float total = 0, deviation = 0;
  for (int row = 0; row < rows; ++row) total = fmaf(pixelsOf(row), means[row * width + i] - about, total);
  const float mean = about + total / static_cast<float>(p.last - p.first);
  for (int row = 0; row < rows; ++row) {
    const float off = means[row * width + i] - mean;
    deviation += fmaf(pixelsOf(row) * off, off, squares[row * width + i]);
  }
  float* to = moments + (p.group * t.runs + p.run) * 2 * t.cols + column;
  to[0] = mean;
  to[t.cols] = deviation;
}

// The statistics [sample, group, 2], from the moments of the group's channels in every run.
__global__ void __launch_bounds__(kMergeThreads)
    mergeMoments(ColumnTiles t, int groups, float eps, const float* moments, float* stats) {
  __shared__ float slots[kMergeThreads / kWarp];
  const int width = t.cols / groups, pairs = static_cast<int>(t.runs) * width;
  const int sample = static_cast<int>(blockIdx.x) / groups, group = static_cast<int>(blockIdx.x) % groups;
  const float* parts = moments + sample * t.runs * 2 * t.cols + group * width;
  const float about = parts[0], count = static_cast<float>(t.rows * width);
  const auto pixelsIn = [&](int run) {
    const int64_t left = t.rows - run * t.perRun;
    return static_cast<float>(left < t.perRun ? left : t.perRun);
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

// --- applying them

// Mean and 1/√(variance + eps) of each of the thread's channels.
template <int V>
__device__ __forceinline__ void loadStats(const ColumnTiles& t, const TilePlace& p, int groups, const float* stats,
                                          float (&mean)[V], float (&rstd)[V]) {
  const int width = t.cols / groups, first = p.column / width;
  const float* of = stats + (p.group * groups + first) * 2;
  int next = (first + 1) * width - p.column;  // column that belongs to another group
#pragma unroll
  for (int j = 0; j < V; ++j) {
    if (j == next) {
      of += 2;
      next += width;
    }
    mean[j] = j < p.left ? of[0] : 0.0f;
    rstd[j] = j < p.left ? of[1] : 0.0f;
  }
}

template <class T, class P, bool Packed>
__global__ void __launch_bounds__(kTileThreads, kTilesAtOnce<T>)
    normPixels(ColumnTiles t, int groups, bool fused, const T* __restrict__ x, const float* __restrict__ stats,
               const P* __restrict__ weight, const P* __restrict__ bias, T* __restrict__ y) {
  constexpr int V = kPerPack<T>;
  const TilePlace p = placeOf<V>(t, gridDim.x - 1 - blockIdx.x);
  float mean[V], gain[V], w[V], b[V];
  loadStats(t, p, groups, stats, mean, gain);
  loadFloats<Packed>(weight + p.column, p.left, w);
  loadFloats<Packed>(bias + p.column, p.left, b);
#pragma unroll
  for (int j = 0; j < V; ++j) gain[j] *= w[j];
#pragma unroll 4
  for (int64_t pixel = p.first + threadIdx.y; pixel < p.last; pixel += t.down) {
    const int64_t at = (p.group * t.rows + pixel) * t.cols + p.column;
    float z[V];
    loadFloats<Packed>(x + at, p.left, z);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      z[j] = fmaf(z[j] - mean[j], gain[j], b[j]);
      if (fused) z[j] = silu(z[j]);
    }
    storeFloats<Packed>(y + at, p.left, z);
  }
}

// --- launches

LaunchShape mergeShape(const ColumnTiles& t, uint32_t groups) {
  return {dim3(static_cast<unsigned>(t.groups) * groups), dim3(kMergeThreads), 0};
}

void launchStats(const KernelArgs& a, const ColumnTiles& t, uint32_t groups, float eps, float* stats) {
  const TensorView& x = a.in[0];
  withElement(x.dtype, [&](auto element) {
    withFlag(onPacks(t.cols, {x}), [&](auto packed) {
      using T = decltype(element);
      launch(a, "group_norm: moments", channelMoments<T, decltype(packed)::value>, t.shape(), t, x.as<T>(),
             a.scratchAs<float>());
    });
  });
  launch(a, "group_norm: merge", mergeMoments, mergeShape(t, groups), t, static_cast<int>(groups), eps,
         a.scratchAs<float>(), stats);
}

void launchApply(const KernelArgs& a, const ColumnTiles& t, uint32_t groups, bool fused, const float* stats,
                 const TensorView& weight, const TensorView& bias) {
  const TensorView &x = a.in[0], &y = a.out[0];
  withTypes(x.dtype, weight.dtype, [&](auto activation, auto parameter) {
    withFlag(onPacks(t.cols, {x, weight, bias, y}), [&](auto packed) {
      using T = decltype(activation);
      using P = decltype(parameter);
      launch(a, "group_norm: apply", normPixels<T, P, decltype(packed)::value>, t.shape(), t, static_cast<int>(groups),
             fused, x.as<T>(), stats, weight.as<P>(), bias.as<P>(), y.as<T>());
    });
  });
}

// Inputs x, weight, bias; outputs y and the statistics [B, groups, 2].
void launchGroupNorm(const KernelArgs& a) {
  const auto& params = a.paramsAs<GroupNormParams>();
  const ColumnTiles t = pixelTiles(a.in[0]);
  float* stats = a.out[1].as<float>();
  launchStats(a, t, params.groups, params.eps, stats);
  launchApply(a, t, params.groups, params.silu != 0, stats, a.in[1], a.in[2]);
}

// The first half of group_norm: input x; output the statistics.
void launchGroupNormStats(const KernelArgs& a) {
  const auto& params = a.paramsAs<GroupStatsParams>();
  launchStats(a, pixelTiles(a.in[0]), params.groups, params.eps, a.out[0].as<float>());
}

// The second half: inputs x (or any rows of it), statistics, weight, bias; output y.
void launchGroupNormApply(const KernelArgs& a) {
  const auto& params = a.paramsAs<GroupApplyParams>();
  launchApply(a, pixelTiles(a.in[0]), params.groups, params.silu != 0, a.in[1].as<float>(), a.in[2], a.in[3]);
}

size_t planGroupNorm(const KernelArgs& a) { return runBytes(pixelTiles(a.in[0])); }

bool acceptGroupNorm(const TensorView* in, const TensorView* out) {
  return acceptTypes(in[0], {out[0]}, {in[1], in[2]}, {out[1]});
}
bool acceptGroupNormStats(const TensorView* in, const TensorView* out) { return acceptTypes(in[0], {}, {}, {out[0]}); }
bool acceptGroupNormApply(const TensorView* in, const TensorView* out) {
  return acceptTypes(in[0], {out[0]}, {in[2], in[3]}, {in[1]});
}

}  // namespace
}  // namespace infinity::cuda
