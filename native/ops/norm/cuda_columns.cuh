// Matrices of which a thread keeps the same few columns and walks down the rows: gated_add, the group norm, and the
// sums over rows that gradients of parameters are. A sum is taken in a run of rows first, then over the runs; both
// orders depend on the extents alone.
#pragma once
#include <initializer_list>

#include "cuda/reduce.cuh"
#include "ops/norm/cuda_tiles.cuh"
#include "ops/norm/norm.h"

namespace infinity::cuda {
namespace {

// Adds up what the threads of each column hold and stores it where the columns of this block begin in `out`.
template <int V>
__device__ __forceinline__ void sumDown(const ColumnTiles& t, const TilePlace& p, const float (&mine)[V],
                                        float* cells /* kTileThreads · V, shared */, float* out) {
  const int width = t.across * V, x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
#pragma unroll
  for (int j = 0; j < V; ++j) cells[y * width + x * V + j] = mine[j];
  __syncthreads();
  const int i = y * t.across + x, column = p.column - x * V + i;
  if (i < width && column < t.cols) {
    float total = cells[i];
    for (int row = 1; row < t.down; ++row) total += cells[row * width + i];
    out[column] = total;
  }
  __syncthreads();
}

// --- sums over runs

constexpr int kFoldWays = 16;

// Adds partial[group][run][width] over the runs. The first `cols` columns are the gradient `first`, the others
// `second`.
template <class G>
__global__ void __launch_bounds__(kWarp* kFoldWays)
    foldRuns(const float* partial, int64_t runs, int width, int cols, G* first, G* second) {
  __shared__ float cells[kFoldWays][kWarp];
  const unsigned tiles = static_cast<unsigned>((width + kWarp - 1) / kWarp);
  const int64_t group = blockIdx.x / tiles;
  const int column = static_cast<int>(blockIdx.x % tiles * kWarp + threadIdx.x), way = static_cast<int>(threadIdx.y);
  float sum = 0;
  if (column < width) {
    const float* from = partial + group * runs * width + column;
#pragma unroll 8
    for (int64_t run = way; run < runs; run += kFoldWays) sum += from[run * width];
  }
  cells[way][threadIdx.x] = sum;
  __syncthreads();
  if (way > 0 || column >= width) return;
  for (int other = 1; other < kFoldWays; ++other) sum += cells[other][threadIdx.x];
  G* to = column < cols ? first + group * cols + column : second + group * cols + column - cols;
  *to = fromFloat<G>(sum);
}

// `second` is left out where there is one gradient only; both are of one type.
void fold(const KernelArgs& a, const float* partial, int64_t groups, int64_t runs, int64_t cols,
          const TensorView& first, const TensorView& second) {
  const int64_t width = second ? 2 * cols : cols;
  const LaunchShape shape = {dim3(static_cast<unsigned>(groups * ceilDiv(width, kWarp))), dim3(kWarp, kFoldWays), 0};
  withElement(first.dtype, [&](auto element) {
    using G = decltype(element);
    launch(a, "norm: fold", foldRuns<G>, shape, partial, runs, width, cols, first.as<G>(), second.as<G>());
  });
}

// --- element types

// Activations are f32 or bf16 throughout; parameters and modulations are of their type or f32.
inline bool acceptTypes(const TensorView& x, std::initializer_list<TensorView> activations,
                        std::initializer_list<TensorView> parameters, std::initializer_list<TensorView> statistics) {
  if (x.dtype != DType::f32 && x.dtype != DType::bf16) return false;
  for (const TensorView& v : activations)
    if (v.dtype != x.dtype) return false;
  DType parameter = DType::i32;  // none yet
  for (const TensorView& v : parameters) {
    if (!v) continue;
    if (parameter != DType::i32 && v.dtype != parameter) return false;
    parameter = v.dtype;
    if (parameter != x.dtype && parameter != DType::f32) return false;
  }
  for (const TensorView& v : statistics)
    if (v.dtype != DType::f32) return false;
  return true;
}

// Calls f(T(), P()) with the types of the activations and of the parameters.
template <class F>
void withTypes(DType activations, DType parameters, const F& f) {
  if (activations == DType::f32)
    f(float(), float());
  else if (parameters == DType::f32)
    f(bf16(), float());
  else
    f(bf16(), bf16());
}

// --- gated add

template <class T, class P, bool Packed>
__global__ void __launch_bounds__(kTileThreads)
    gatedAdd(ColumnTiles t, const T* __restrict__ x, const T* __restrict__ y, const P* __restrict__ gates,
             T* __restrict__ out) {
  constexpr int V = kPerPack<T>;
  const TilePlace p = placeOf<V>(t, blockIdx.x);
  float gate[V];
  loadFloats<Packed>(gates + p.group * t.cols + p.column, p.left, gate);
#pragma unroll 4
  for (int64_t row = p.first + threadIdx.y; row < p.last; row += t.down) {
    const int64_t at = (p.group * t.rows + row) * t.cols + p.column;
    float sum[V], branch[V];
    loadFloats<Packed>(x + at, p.left, sum);
    loadFloats<Packed>(y + at, p.left, branch);
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] = fmaf(branch[j], gate[j], sum[j]);
    storeFloats<Packed>(out + at, p.left, sum);
  }
}

// gy = g · gate, and of every run Σ g · y.
template <class T, class P, bool Packed>
__global__ void __launch_bounds__(kTileThreads)
    gatedAddBackward(ColumnTiles t, const T* __restrict__ g, const T* __restrict__ y, const P* __restrict__ gates,
                     T* __restrict__ gy, float* __restrict__ partial) {
  constexpr int V = kPerPack<T>;
  __shared__ float cells[kTileThreads * V];
  const TilePlace p = placeOf<V>(t, blockIdx.x);
  float gate[V], sum[V] = {};
  loadFloats<Packed>(gates + p.group * t.cols + p.column, p.left, gate);
#pragma unroll 4
  for (int64_t row = p.first + threadIdx.y; row < p.last; row += t.down) {
    const int64_t at = (p.group * t.rows + row) * t.cols + p.column;
    float gradient[V], branch[V];
    loadFloats<Packed>(g + at, p.left, gradient);
    loadFloats<Packed>(y + at, p.left, branch);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      sum[j] = fmaf(gradient[j], branch[j], sum[j]);
      gradient[j] *= gate[j];
    }
    storeFloats<Packed>(gy + at, p.left, gradient);
  }
  sumDown(t, p, sum, cells, partial + (p.group * t.runs + p.run) * t.cols);
}

ColumnTiles gateTiles(const TensorView& x, const TensorView& gate) {
  const RowSharing share(x, gate);
  return {share.groups, share.rows, x.cols(), x.dtype};
}

// Inputs x, y, gate; output x + y · gate.
void launchGatedAdd(const KernelArgs& a) {
  const ColumnTiles t = gateTiles(a.in[0], a.in[2]);
  withTypes(a.in[0].dtype, a.in[2].dtype, [&](auto activation, auto parameter) {
    withFlag(onPacks(t.cols, {a.in[0], a.in[1], a.in[2], a.out[0]}), [&](auto packed) {
      using T = decltype(activation);
      using P = decltype(parameter);
      launch(a, "gated_add", gatedAdd<T, P, decltype(packed)::value>, t.shape(), t, a.in[0].as<T>(), a.in[1].as<T>(),
             a.in[2].as<P>(), a.out[0].as<T>());
    });
  });
}

// Inputs the gradient of the sum, y, gate; outputs gy and the gradient of the gate.
void launchGatedAddBackward(const KernelArgs& a) {
  const ColumnTiles t = gateTiles(a.in[0], a.in[2]);
  withTypes(a.in[0].dtype, a.in[2].dtype, [&](auto activation, auto parameter) {
    withFlag(onPacks(t.cols, {a.in[0], a.in[1], a.in[2], a.out[0]}), [&](auto packed) {
      using T = decltype(activation);
      using P = decltype(parameter);
      launch(a, "gated_add_backward", gatedAddBackward<T, P, decltype(packed)::value>, t.shape(), t, a.in[0].as<T>(),
             a.in[1].as<T>(), a.in[2].as<P>(), a.out[0].as<T>(), a.scratchAs<float>());
    });
  });
  fold(a, a.scratchAs<float>(), t.groups, t.runs, t.cols, a.out[1], {});
}

size_t planGatedAddBackward(const KernelArgs& a) {
  const ColumnTiles t = gateTiles(a.in[0], a.in[2]);
  return static_cast<size_t>(t.groups * t.runs * t.cols) * sizeof(float);
}

bool acceptGatedAdd(const TensorView* in, const TensorView* out) {
  return acceptTypes(in[0], {in[1], out[0]}, {in[2]}, {});
}
bool acceptGatedAddBackward(const TensorView* in, const TensorView* out) {
  return acceptTypes(in[0], {in[1], out[0]}, {in[2], out[1]}, {});
}

}  // namespace
}  // namespace infinity::cuda
