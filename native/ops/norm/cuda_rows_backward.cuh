// Gradients of layer_norm, ada_norm and rms_norm. A row stays in registers as in the forward pass, and so do the sums
// over rows that the gradients of gain and shift are, while a block goes down a run of rows.
#pragma once
#include "ops/norm/cuda_rows.cuh"

namespace infinity::cuda {
namespace {

template <int Threads>
constexpr int kSides = Threads < 512 ? 512 / Threads : 1;

// The rows of a block.
struct RunPlace {
  int64_t first;  // of all
  int group, count;
};
__device__ __forceinline__ RunPlace runOf(const RowNormFacts& n, unsigned runs) {
  const int group = static_cast<int>(blockIdx.x / runs);
  const int64_t start = (blockIdx.x % runs) * kRowsPerRun, left = n.rowsPerGroup - start;
  return {group * int64_t{n.rowsPerGroup} + start, group, static_cast<int>(left < kRowsPerRun ? left : kRowsPerRun)};
}

// A block takes a run of rows, several rows side by side. Its sums of gy · normal, and of gy where the norm is centred,
// go to partial[run][gain, shift][cols].
template <class T, class P, int Threads>
__global__ void __launch_bounds__(Threads* kSides<Threads>, Threads < 1024 ? 2 : 1)
    normRowsBackward(RowNormFacts n, unsigned runs, const T* __restrict__ gy, const T* __restrict__ x,
                     const float* __restrict__ stats, const P* __restrict__ gains, T* __restrict__ gx,
                     float* __restrict__ partial) {
  constexpr int V = kPerPack<T>, chunks = kHeld / V, sides = kSides<Threads>, warps = Threads / kWarp;
  constexpr int width = Threads * kHeld;
  __shared__ float slots[2][2][sides * warps];  // barrier by barrier in turn: [turn][sum][warp]
  __align__(16) __shared__ float cells[sides * width];
  const int side = static_cast<int>(threadIdx.x) / Threads, warp = static_cast<int>(threadIdx.x) / kWarp;
  const RunPlace p = runOf(n, runs);
  const float share = 1.0f / static_cast<float>(n.cols);

  float gainSum[chunks][V] = {}, shiftSum[chunks][V] = {};
#pragma unroll 1
  for (int trip = 0; trip * sides < p.count; ++trip) {
    const int r = trip * sides + side;
    const int64_t at = (p.first + r) * n.cols;
    const int reach = r < p.count ? n.cols : 0;  // a row beyond the run has no columns
    float g[chunks][V], normal[chunks][V], mean = 0, rstd = 0;
    loadRow<Threads>(n.packed, gy + at, reach, g);
    loadRow<Threads>(n.packed, x + at, reach, normal);
    if (reach) {
      mean = stats[2 * (p.first + r)];
      rstd = stats[2 * (p.first + r) + 1];
    }
    float plain = 0, along = 0;
#pragma unroll
    for (int k = 0; k < chunks; ++k) {
      const int i = chunkStart<Threads, V>(k);
      float gain[V];
      if (gains) loadFloats(n.packed, gains + p.group * int64_t{n.cols} + i, n.cols - i, gain);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        normal[k][j] = (normal[k][j] - mean) * rstd;
        gainSum[k][j] = fmaf(g[k][j], normal[k][j], gainSum[k][j]);
        shiftSum[k][j] += g[k][j];
        g[k][j] *= gains ? n.base + gain[j] : 1.0f;
        plain += g[k][j];
        along = fmaf(g[k][j], normal[k][j], along);
      }
    }
    plain = warpReduce(plain);
    along = warpReduce(along);
    if constexpr (warps > 1) {
      float(&turn)[2][sides * warps] = slots[trip & 1];
      if (threadIdx.x % kWarp == 0) {
        turn[0][warp] = plain;
        turn[1][warp] = along;
      }
      __syncthreads();
      plain = turn[0][side * warps];
      along = turn[1][side * warps];
#pragma unroll
      for (int w = 1; w < warps; ++w) {
        plain += turn[0][side * warps + w];
        along += turn[1][side * warps + w];
      }
    }
    const float offset = n.centred ? plain * share : 0.0f, slope = along * share;
#pragma unroll
    for (int k = 0; k < chunks; ++k) {
      const int i = chunkStart<Threads, V>(k);
#pragma unroll
      for (int j = 0; j < V; ++j) g[k][j] = rstd * fmaf(-normal[k][j], slope, g[k][j] - offset);
      storeFloats(n.packed, gx + at + i, reach - i, g[k]);
    }
  }

  partial += static_cast<int64_t>(blockIdx.x) * (n.centred ? 2 : 1) * n.cols;
  const auto sumSides = [&](const float(&sums)[chunks][V], float* to) {
#pragma unroll
    for (int k = 0; k < chunks; ++k) storeFloats<true>(cells + side * width + chunkStart<Threads, V>(k), V, sums[k]);
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < n.cols; i += sides * Threads) {
      float total = cells[i];
      for (int s = 1; s < sides; ++s) total += cells[s * width + i];
      to[i] = total;
    }
    __syncthreads();
  };
  sumSides(gainSum, partial);
  if (n.centred) sumSides(shiftSum, partial + n.cols);
}

template <class T, class P>
__global__ void __launch_bounds__(kMostThreads)
    normWideRowsBackward(RowNormFacts n, unsigned runs, const T* gy, const T* x, const float* stats, const P* gains,
                         T* gx, float* partial) {
  __shared__ float slots[kMostThreads / kWarp];
  const RunPlace p = runOf(n, runs);
  const P* gain = gains ? gains + p.group * int64_t{n.cols} : nullptr;
  const int first = static_cast<int>(threadIdx.x);
  const float share = 1.0f / static_cast<float>(n.cols);
  partial += static_cast<int64_t>(blockIdx.x) * (n.centred ? 2 : 1) * n.cols;
  for (int r = 0; r < p.count; ++r) {
    const int64_t row = p.first + r, at = row * n.cols;
    const float mean = stats[2 * row], rstd = stats[2 * row + 1];
    const auto scaled = [&](int i) { return toFloat(gy[at + i]) * (gain ? n.base + toFloat(gain[i]) : 1.0f); };
    float plain = 0, along = 0;
    for (int i = first; i < n.cols; i += kMostThreads) {
      plain += scaled(i);
      along = fmaf(scaled(i), (toFloat(x[at + i]) - mean) * rstd, along);
    }
    plain = blockReduce<kMostThreads>(plain, slots);
    along = blockReduce<kMostThreads>(along, slots);
    const float offset = n.centred ? plain * share : 0.0f, slope = along * share;
    for (int i = first; i < n.cols; i += kMostThreads) {
      const float normal = (toFloat(x[at + i]) - mean) * rstd, g = toFloat(gy[at + i]);
      gx[at + i] = fromFloat<T>(rstd * fmaf(-normal, slope, scaled(i) - offset));
      partial[i] = fmaf(g, normal, r == 0 ? 0.0f : partial[i]);
      if (n.centred) partial[n.cols + i] = g + (r == 0 ? 0.0f : partial[n.cols + i]);
    }
  }
}

// --- launches

// Inputs gy, x, stats, gain; outputs gx, the gradient of the gain and (but for rms) of the shift.
template <RowNorm kind>
void launchRowNormBackward(const KernelArgs& a) {
  const TensorView none, &gy = a.in[0], &x = a.in[1], &gain = a.in[3];
  const RowSharing share(x, gain);
  const RowNormFacts n = factsOf(kind, x, share, 0, onPacks(x.cols(), {gy, x, gain, a.out[0]}));
  float* partial = a.scratchAs<float>();
  withTypes(x.dtype, gain ? gain.dtype : x.dtype, [&](auto activation, auto parameter) {
    using T = decltype(activation);
    using P = decltype(parameter);
    const auto run = [&](auto* kernel, int threads) {
      const LaunchShape shape = {dim3(static_cast<unsigned>(share.groups * share.runs)),
                                 dim3(static_cast<unsigned>(threads)), 0};
      launch(a, "row_norm_backward", kernel, shape, n, static_cast<unsigned>(share.runs), gy.as<T>(), x.as<T>(),
             a.in[2].as<float>(), gain.as<P>(), a.out[0].as<T>(), partial);
    };
    if (n.cols > kWidestHeld) return run(normWideRowsBackward<T, P>, kMostThreads);
    withRowThreads(n.cols, [&](auto threads) {
      constexpr int Threads = decltype(threads)::value;
      run(normRowsBackward<T, P, Threads>, Threads * kSides<Threads>);
    });
  });
  fold(a, partial, share.groups, share.runs, n.cols, a.out[1], kind == RowNorm::rms ? none : a.out[2]);
}

size_t planRowNormBackward(const KernelArgs& a) {
  const RowSharing share(a.in[1], a.in[3]);
  return static_cast<size_t>(share.groups * share.runs * a.in[1].cols() * 2) * sizeof(float);
}

template <RowNorm kind>
bool acceptRowNormBackward(const TensorView* in, const TensorView* out) {
  const TensorView none;
  const TensorView& shift = kind == RowNorm::rms ? none : out[2];
  // Without parameters their gradients are of any one type.
  return acceptTypes(in[1], {in[0], out[0]}, {in[3], out[1], shift}, {in[2]});
}

}  // namespace
}  // namespace infinity::cuda
