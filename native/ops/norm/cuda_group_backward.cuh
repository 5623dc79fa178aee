// The gradient of the group norm: sums of every run of pixels, channel by channel; one block a group merges them; then
// the pixels are gone over once more.
#pragma once
#include "ops/norm/cuda_group.cuh"

namespace infinity::cuda {
namespace {

// The gradient before SiLU, given that after it in g, and the normalised value in place of x.
template <int V>
__device__ __forceinline__ void stepBack(bool fused, const float (&mean)[V], const float (&rstd)[V],
                                         const float (&w)[V], const float (&b)[V], float (&g)[V], float (&x)[V]) {
#pragma unroll
  for (int j = 0; j < V; ++j) {
    x[j] = (x[j] - mean[j]) * rstd[j];
    if (fused) g[j] *= siluSlope(fmaf(x[j], w[j], b[j]));
  }
}

// Of every channel in the run, the sum of the gradients and that of the gradients times the normalised values.
template <class T, class P, bool Packed>
__global__ void __launch_bounds__(kTileThreads, kTilesAtOnce<T>)
    sumGradients(ColumnTiles t, int groups, bool fused, const T* __restrict__ gy, const T* __restrict__ x,
                 const float* __restrict__ stats, const P* __restrict__ weight, const P* __restrict__ bias,
                 float* __restrict__ sums) {
  constexpr int V = kPerPack<T>;
  __shared__ float cells[kTileThreads * V];
  const TilePlace p = placeOf<V>(t, blockIdx.x);
  float mean[V], rstd[V], w[V], b[V], plain[V] = {}, along[V] = {};
  loadStats(t, p, groups, stats, mean, rstd);
  loadFloats<Packed>(weight + p.column, p.left, w);
  loadFloats<Packed>(bias + p.column, p.left, b);
#pragma unroll 2
  for (int64_t pixel = p.first + threadIdx.y; pixel < p.last; pixel += t.down) {
    const int64_t at = (p.group * t.rows + pixel) * t.cols + p.column;
    float g[V], normal[V];
    loadFloats<Packed>(gy + at, p.left, g);
    loadFloats<Packed>(x + at, p.left, normal);
    stepBack(fused, mean, rstd, w, b, g, normal);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      plain[j] += g[j];
      along[j] = fmaf(g[j], normal[j], along[j]);
    }
  }
  float* to = sums + (p.group * t.runs + p.run) * 2 * t.cols;
  sumDown(t, p, plain, cells, to);
  sumDown(t, p, along, cells, to + t.cols);
}

// Of every group, the mean weighted gradient, and that times the normalised value: [sample, group, 2].
template <class P>
__global__ void __launch_bounds__(kMergeThreads)
    mergeGradients(ColumnTiles t, int groups, const float* sums, const P* weight, float* corrections) {
  __shared__ float slots[kMergeThreads / kWarp];
  const int width = t.cols / groups, pairs = static_cast<int>(t.runs) * width;
  const int sample = static_cast<int>(blockIdx.x) / groups, group = static_cast<int>(blockIdx.x) % groups;
  const float* parts = sums + sample * t.runs * 2 * t.cols + group * width;
  float plain = 0, along = 0;
  for (int i = static_cast<int>(threadIdx.x); i < pairs; i += kMergeThreads) {
    const int channel = i % width;
    const float w = toFloat(weight[group * width + channel]);
    const float* part = parts + i / width * int64_t{2} * t.cols + channel;
    plain = fmaf(w, part[0], plain);
    along = fmaf(w, part[t.cols], along);
  }
  plain = blockReduce<kMergeThreads>(plain, slots);
  along = blockReduce<kMergeThreads>(along, slots);
  if (threadIdx.x > 0) return;
  const float count = static_cast<float>(t.rows * width);
  corrections[2 * blockIdx.x] = plain / count;
  corrections[2 * blockIdx.x + 1] = along / count;
}

template <class T, class P, bool Packed>
__global__ void __launch_bounds__(kTileThreads, kTilesAtOnce<T>)
    pixelGradients(ColumnTiles t, int groups, bool fused, const T* __restrict__ gy, const T* __restrict__ x,
                   const float* __restrict__ stats, const float* __restrict__ corrections, const P* __restrict__ weight,
                   const P* __restrict__ bias, T* __restrict__ gx) {
  constexpr int V = kPerPack<T>;
  const TilePlace p = placeOf<V>(t, gridDim.x - 1 - blockIdx.x);
  float mean[V], rstd[V], offset[V], slope[V], w[V], b[V];
  loadStats(t, p, groups, stats, mean, rstd);
  loadStats(t, p, groups, corrections, offset, slope);
  loadFloats<Packed>(weight + p.column, p.left, w);
  loadFloats<Packed>(bias + p.column, p.left, b);
#pragma unroll 2
  for (int64_t pixel = p.first + threadIdx.y; pixel < p.last; pixel += t.down) {
    const int64_t at = (p.group * t.rows + pixel) * t.cols + p.column;
    float g[V], normal[V];
    loadFloats<Packed>(gy + at, p.left, g);
    loadFloats<Packed>(x + at, p.left, normal);
    stepBack(fused, mean, rstd, w, b, g, normal);
#pragma unroll
    for (int j = 0; j < V; ++j) g[j] = rstd[j] * fmaf(-normal[j], slope[j], fmaf(g[j], w[j], -offset[j]));
    storeFloats<Packed>(gx + at, p.left, g);
  }
}

// --- launches

// Inputs gy, x, stats, weight, bias; outputs gx and the gradients of weight and bias.
void launchGroupNormBackward(const KernelArgs& a) {
  const auto& params = a.paramsAs<GroupNormParams>();
  const TensorView &gy = a.in[0], &x = a.in[1], &weight = a.in[3], &bias = a.in[4];
  const float* stats = a.in[2].as<float>();
  const ColumnTiles t = pixelTiles(x);
  const int groups = static_cast<int>(params.groups);
  const bool fused = params.silu != 0;
  float *sums = a.scratchAs<float>(), *corrections = sums + runBytes(t) / sizeof(float);
  withTypes(x.dtype, weight.dtype, [&](auto activation, auto parameter) {
    withFlag(onPacks(t.cols, {gy, x, weight, bias, a.out[0]}), [&](auto packed) {
      using T = decltype(activation);
      using P = decltype(parameter);
      constexpr bool Packed = decltype(packed)::value;
      launch(a, "group_norm_backward: sums", sumGradients<T, P, Packed>, t.shape(), t, groups, fused, gy.as<T>(),
             x.as<T>(), stats, weight.as<P>(), bias.as<P>(), sums);
      launch(a, "group_norm_backward: merge", mergeGradients<P>, mergeShape(t, params.groups), t, groups, sums,
             weight.as<P>(), corrections);
      launch(a, "group_norm_backward: apply", pixelGradients<T, P, Packed>, t.shape(), t, groups, fused, gy.as<T>(),
             x.as<T>(), stats, corrections, weight.as<P>(), bias.as<P>(), a.out[0].as<T>());
    });
  });
  // Samples follow one another as runs do: [sample · run][bias, weight][channels].
  fold(a, sums, 1, t.groups * t.runs, t.cols, a.out[2], a.out[1]);
}

size_t planGroupNormBackward(const KernelArgs& a) {
  const ColumnTiles t = pixelTiles(a.in[1]);
  return runBytes(t) + static_cast<size_t>(t.groups) * a.paramsAs<GroupNormParams>().groups * 2 * sizeof(float);
}

bool acceptGroupNormBackward(const TensorView* in, const TensorView* out) {
  return acceptTypes(in[1], {in[0], out[0]}, {in[3], in[4], out[1], out[2]}, {in[2]});
}

}  // namespace
}  // namespace infinity::cuda
