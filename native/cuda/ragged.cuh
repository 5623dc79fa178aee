// Runs of N elements whose ends and addresses may be ragged: vectors where they fit, single elements elsewhere.
#pragma once
#include "cuda/element.cuh"

namespace infinity::cuda {

// p[0] … p[n − 1] in to[0] …, zeros above; n may exceed N.
template <int N, class T>
__device__ __forceinline__ void loadUpTo(const T* p, int n, T (&to)[N]) {
  constexpr int each = kPerPack<T> < N ? kPerPack<T> : N;
  static_assert(N % each == 0, "whole packs");
  if (n >= N && reinterpret_cast<uintptr_t>(p) % (each * sizeof(T)) == 0) {
#pragma unroll
    for (int i = 0; i < N; i += each) {
      const Pack<T, each> pack = loadPack<each>(p + i);
#pragma unroll
      for (int k = 0; k < each; ++k) to[i + k] = pack.v[k];
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = i < n ? p[i] : T{};
  }
}

// Writes from[0] … from[n − 1] and nothing beyond; n may exceed N.
template <int N, class T>
__device__ __forceinline__ void storeUpTo(T* p, int n, const T (&from)[N]) {
  constexpr int each = kPerPack<T> < N ? kPerPack<T> : N;
  static_assert(N % each == 0, "whole packs");
  if (n >= N && reinterpret_cast<uintptr_t>(p) % (each * sizeof(T)) == 0) {
#pragma unroll
    for (int i = 0; i < N; i += each) {
      Pack<T, each> pack;
#pragma unroll
      for (int k = 0; k < each; ++k) pack.v[k] = from[i + k];
      storePack(p + i, pack);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (i < n) p[i] = from[i];
  }
}

// The same, widened to and rounded from float.
template <int N, class T>
__device__ __forceinline__ void loadFloats(const T* p, int n, float (&to)[N]) {
  T stored[N];
  loadUpTo(p, n, stored);
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = toFloat(stored[i]);
}
template <int N, class T>
__device__ __forceinline__ void storeFloats(T* p, int n, const float (&from)[N]) {
  T stored[N];
#pragma unroll
  for (int i = 0; i < N; ++i) stored[i] = fromFloat<T>(from[i]);
  storeUpTo(p, n, stored);
}

// A tensor of either type, told apart at run time: every thread takes the same branch, and the kernel exists once.
struct Numbers {
  void* data;
  bool half;

  explicit Numbers(const TensorView& v) : data(v.data), half(v.dtype == DType::bf16) {}
  __device__ __forceinline__ explicit operator bool() const { return data != nullptr; }
  template <int N>
  __device__ __forceinline__ void load(int64_t at, int n, float (&to)[N]) const {
    half ? loadFloats(static_cast<const bf16*>(data) + at, n, to)
         : loadFloats(static_cast<const float*>(data) + at, n, to);
  }
  template <int N>
  __device__ __forceinline__ void store(int64_t at, int n, const float (&from)[N]) const {
    half ? storeFloats(static_cast<bf16*>(data) + at, n, from) : storeFloats(static_cast<float*>(data) + at, n, from);
  }
};

}  // namespace infinity::cuda
