// Group normalisation of channels-last pictures, with SiLU fused: after the statistics the pixels are gone over once
// more, last ones first, because those are still in the cache. A tile's threads keep their channels, and with them
// everything that belongs to a channel.
#pragma once
#include "cuda/math.cuh"
#include "ops/norm/cuda_columns.cuh"
#include "ops/norm/cuda_moments.cuh"

namespace infinity::cuda {
namespace {

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
  launchStats(a, a.in[0], params.groups, params.eps, a.scratchAs<float>(), stats);
  launchApply(a, t, params.groups, params.silu != 0, stats, a.in[1], a.in[2]);
}

// The first half of group_norm: input x; output the statistics.
void launchGroupNormStats(const KernelArgs& a) {
  const auto& params = a.paramsAs<GroupStatsParams>();
  launchStats(a, a.in[0], params.groups, params.eps, a.scratchAs<float>(), a.out[0].as<float>());
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
