// layer_norm, ada_norm and rms_norm: a row is read once and stays in registers, eight elements a
// thread, with as many warps as that takes. Rows wider than kWidestHeld are read again for every pass.
#pragma once
#include "cuda/chunk.cuh"
#include "cuda/launch.h"
#include "cuda/reduce.cuh"
#include "ops/norm/cuda_columns.cuh"
#include "ops/norm/norm.h"

namespace infinity::cuda {
namespace {

constexpr int kHeld = 8;  // elements of a row that a thread holds
constexpr int kMostThreads = 1024;
constexpr int64_t kWidestHeld = kHeld * kMostThreads;

// Calls f with the threads of a row as a compile-time number. Host code.
template <class F>
void withRowThreads(int64_t cols, const F& f) {
  if (cols <= kHeld * 32)
    f(std::integral_constant<int, 32>());
  else if (cols <= kHeld * 64)
    f(std::integral_constant<int, 64>());
  else if (cols <= kHeld * 128)
    f(std::integral_constant<int, 128>());
  else if (cols <= kHeld * 256)
    f(std::integral_constant<int, 256>());
  else if (cols <= kHeld * 512)
    f(std::integral_constant<int, 512>());
  else
    f(std::integral_constant<int, 1024>());
}

// The thread's chunks are Threads packs apart.
template <int Threads, int V>
__device__ __forceinline__ int chunkStart(int k) {
  return (k * Threads + static_cast<int>(threadIdx.x) % Threads) * V;
}

template <int Threads, int V, int Chunks, class T>
__device__ __forceinline__ void loadRow(bool packed, const T* row, int cols, float (&to)[Chunks][V]) {
#pragma unroll
  for (int k = 0; k < Chunks; ++k) {
    const int i = chunkStart<Threads, V>(k);
    loadFloats(packed, row + i, cols - i, to[k]);
  }
}

// What the norms have in common. y = (x − mean) · rstd · (base + gain) + shift; without a gain the factor is 1.
struct RowNormFacts {
  unsigned rows, rowsPerGroup;  // groups of rows share a row of gain and shift
  int cols;
  float eps, base;
  bool centred;  // rms_norm is not: its mean is zero
  bool packed;   // rows start at multiples of 16 bytes
};

// --- forward

// Short rows have a warp each, four to a block.
template <int Threads>
constexpr int kRowsPerBlock = Threads == kWarp ? 4 : 1;

template <class T, class P, int Threads>
__global__ void __launch_bounds__(Threads* kRowsPerBlock<Threads>)
    normRows(RowNormFacts n, const T* __restrict__ x, const P* __restrict__ gains, const P* __restrict__ shifts,
             T* __restrict__ y, float* __restrict__ stats) {
  constexpr int V = kPerPack<T>, chunks = kHeld / V;
  __shared__ float slots[Threads / kWarp];
  const unsigned row = blockIdx.x * kRowsPerBlock<Threads> + threadIdx.x / Threads;
  // Whole warps, of blocks that have no barrier.
  if (kRowsPerBlock < Threads >> 1 && row >= n.rows) return;
  float value[chunks][V];
  const int64_t at = static_cast<int64_t>(row) * n.cols, group = row / n.rowsPerGroup * int64_t{n.cols};
  loadRow<Threads>(n.packed, x + at, n.cols, value);

  const float cols = static_cast<float>(n.cols);
  float mean = 0;
  if (n.centred) {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < chunks; ++k)
#pragma unroll
      for (int j = 0; j < V; ++j) sum += value[k][j];
    mean = blockReduce<Threads>(sum, slots) / cols;
  }
  float squares = 0;
#pragma unroll
  for (int k = 0; k < chunks; ++k)
#pragma unroll
    for (int j = 0; j < V; ++j) {
      value[k][j] = chunkStart<Threads, V>(k) + j < n.cols ? value[k][j] - mean : 0.0f;
      squares = fmaf(value[k][j], value[k][j], squares);
    }
  const float rstd = 1.0f / sqrtf(blockReduce<Threads>(squares, slots) / cols + n.eps);

#pragma unroll
  for (int k = 0; k < chunks; ++k) {
    const int i = chunkStart<Threads, V>(k), left = n.cols - i;
    float gain[V], shift[V];
    if (gains) loadFloats(n.packed, gains + group + i, left, gain);
    if (shifts) loadFloats(n.packed, shifts + group + i, left, shift);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float normal = value[k][j] * rstd;
      value[k][j] = fmaf(normal, gains ? n.base + gain[j] : 1.0f, shifts ? shift[j] : 0.0f);
    }
    storeFloats(n.packed, y + at + i, left, value[k]);
  }
  if (threadIdx.x % Threads == 0) {
    stats[int64_t{2} * row] = mean;
    stats[int64_t{2} * row + 1] = rstd;
  }
}

template <class T, class P>
__global__ void __launch_bounds__(kMostThreads)
    normWideRows(RowNormFacts n, const T* x, const P* gains, const P* shifts, T* y, float* stats) {
  __shared__ float slots[kMostThreads / kWarp];
  const unsigned row = blockIdx.x;
  const int64_t at = static_cast<int64_t>(row) * n.cols, group = row / n.rowsPerGroup * int64_t{n.cols};
  const int first = static_cast<int>(threadIdx.x);
  const float cols = static_cast<float>(n.cols);
  x += at;
  float mean = 0, squares = 0;
  if (n.centred) {
    float sum = 0;
    for (int i = first; i < n.cols; i += kMostThreads) sum += toFloat(x[i]);
    mean = blockReduce<kMostThreads>(sum, slots) / cols;
  }
  for (int i = first; i < n.cols; i += kMostThreads) {
    const float d = toFloat(x[i]) - mean;
    squares = fmaf(d, d, squares);
  }
  const float rstd = 1.0f / sqrtf(blockReduce<kMostThreads>(squares, slots) / cols + n.eps);
  for (int i = first; i < n.cols; i += kMostThreads) {
    const float gain = gains ? n.base + toFloat(gains[group + i]) : 1.0f;
    const float shift = shifts ? toFloat(shifts[group + i]) : 0.0f;
    y[at + i] = fromFloat<T>(fmaf((toFloat(x[i]) - mean) * rstd, gain, shift));
  }
  if (first == 0) {
    stats[int64_t{2} * row] = mean;
    stats[int64_t{2} * row + 1] = rstd;
  }
}

// --- launches

RowNormFacts factsOf(RowNorm kind, const TensorView& x, const RowSharing& share, float eps, bool packed) {
  const float base = kind == RowNorm::ada ? 1.0f : 0.0f;
  return {static_cast<unsigned>(x.rows()),
          static_cast<unsigned>(share.rows),
          static_cast<int>(x.cols()),
          eps,
          base,
          kind != RowNorm::rms,
          packed};
}

// Inputs x, gain, shift; outputs y and the statistics.
template <RowNorm kind>
void launchRowNorm(const KernelArgs& a) {
  const TensorView none, &x = a.in[0], &gain = a.in[1], &shift = kind == RowNorm::rms ? none : a.in[2];
  const RowNormFacts n = factsOf(kind, x, RowSharing(x, gain), a.paramsAs<NormParams>().eps,
                                 onPacks(x.cols(), {x, gain, shift, a.out[0]}));
  withTypes(x.dtype,
            gain    ? gain.dtype
            : shift ? shift.dtype
                    : x.dtype,
            [&](auto activation, auto parameter) {
              using T = decltype(activation);
              using P = decltype(parameter);
              const auto run = [&](auto* kernel, int threads, int rowsPerBlock) {
                const LaunchShape shape = {dim3(static_cast<unsigned>(ceilDiv(n.rows, rowsPerBlock))),
                                           dim3(static_cast<unsigned>(threads * rowsPerBlock)), 0};
                launch(a, "row_norm", kernel, shape, n, x.as<T>(), gain.as<P>(), shift.as<P>(), a.out[0].as<T>(),
                       a.out[1].as<float>());
              };
              if (n.cols > kWidestHeld) return run(normWideRows<T, P>, kMostThreads, 1);
              withRowThreads(n.cols, [&](auto threads) {
                constexpr int Threads = decltype(threads)::value;
                run(normRows<T, P, Threads>, Threads, kRowsPerBlock<Threads>);
              });
            });
}

template <RowNorm kind>
bool acceptRowNorm(const TensorView* in, const TensorView* out) {
  return acceptTypes(in[0], {out[0]}, {in[1], kind == RowNorm::rms ? TensorView() : in[2]}, {out[1]});
}

}  // namespace
}  // namespace infinity::cuda
