// One function of corresponding elements of tensors of one size: read and written 16 bytes a thread, several loads
// under way before the first is used.
#pragma once
#include "cuda/element.cuh"
#include "cuda/launch.h"

namespace infinity::cuda {

template <class T, int N>
struct Pointers {
  T* at[N];
};

inline bool aligned(const void* p, size_t to) { return reinterpret_cast<uintptr_t>(p) % to == 0; }

constexpr int kMapThreads = 256;

// f(x, y) reads From x[Ins] and writes To y[Outs]. An output may be an input: a thread reads all its elements first.
template <int N, int Batch, class From, int Ins, class To, int Outs, class F>
__global__ void __launch_bounds__(kMapThreads)
    mapKernel(Pointers<const From, Ins> in, Pointers<To, Outs> out, int64_t n, F f) {
  const int64_t packs = n / N, step = static_cast<int64_t>(gridDim.x) * kMapThreads * Batch;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kMapThreads * Batch + threadIdx.x; first < packs;
       first += step) {
    Pack<From, N> x[Batch][Ins];
#pragma unroll
    for (int b = 0; b < Batch; ++b)
      if (first + b * kMapThreads < packs)
#pragma unroll
        for (int k = 0; k < Ins; ++k) x[b][k] = loadPack<N>(in.at[k] + (first + b * kMapThreads) * N);
#pragma unroll
    for (int b = 0; b < Batch; ++b) {
      if (first + b * kMapThreads >= packs) continue;
      Pack<To, N> y[Outs];
#pragma unroll
      for (int e = 0; e < N; ++e) {
        From from[Ins];
        To to[Outs];
#pragma unroll
        for (int k = 0; k < Ins; ++k) from[k] = x[b][k].v[e];
        f(from, to);
#pragma unroll
        for (int k = 0; k < Outs; ++k) y[k].v[e] = to[k];
      }
#pragma unroll
      for (int k = 0; k < Outs; ++k) storePack(out.at[k] + (first + b * kMapThreads) * N, y[k]);
    }
  }
  if (N > 1 && blockIdx.x == 0 && threadIdx.x < n - packs * N) {
    const int64_t i = packs * N + threadIdx.x;
    From from[Ins];
    To to[Outs];
#pragma unroll
    for (int k = 0; k < Ins; ++k) from[k] = in.at[k][i];
    f(from, to);
#pragma unroll
    for (int k = 0; k < Outs; ++k) out.at[k][i] = to[k];
  }
}

template <class From, int Ins, class To, int Outs, class F>
void map(const KernelArgs& a, const char* name, const Pointers<const From, Ins>& in, const Pointers<To, Outs>& out,
         int64_t n, const F& f) {
  constexpr int wide = kPerPack<From> < kPerPack<To> ? kPerPack<From> : kPerPack<To>, batch = Ins > 2 ? 1 : 2;
  bool packed = true;
  for (const From* p : in.at) packed = packed && aligned(p, sizeof(From) * wide);
  for (const To* p : out.at) packed = packed && aligned(p, sizeof(To) * wide);
  if (packed)
    launch(a, name, mapKernel<wide, batch, From, Ins, To, Outs, F>, overElements(a, n, wide * batch, kMapThreads), in,
           out, n, f);
  else
    launch(a, name, mapKernel<1, batch, From, Ins, To, Outs, F>, overElements(a, n, batch, kMapThreads), in, out, n, f);
}

template <class T, int N>
Pointers<T, N> pointersOf(const TensorView* views) {
  Pointers<T, N> p;
  for (int k = 0; k < N; ++k) p.at[k] = views[k].as<T>();
  return p;
}

// A function of floats that returns one, as `map` takes it: stored numbers are widened and the result is rounded.
template <class F>
struct InFloat {
  F f;
  template <class T>
  __device__ __forceinline__ void operator()(const T (&x)[1], T (&y)[1]) const {
    y[0] = fromFloat<T>(f(toFloat(x[0])));
  }
  template <class T>
  __device__ __forceinline__ void operator()(const T (&x)[2], T (&y)[1]) const {
    y[0] = fromFloat<T>(f(toFloat(x[0]), toFloat(x[1])));
  }
};

}  // namespace infinity::cuda
