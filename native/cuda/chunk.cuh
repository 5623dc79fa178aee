// Neighbouring elements as floats: in accesses of 16 bytes where every row starts at a multiple of that, else one by
// one.
#pragma once
#include <type_traits>

#include "cuda/element.cuh"

namespace infinity::cuda {

// Whether all rows of this many elements start at multiples of 16 bytes; so does one that is left out. Host code.
inline bool rowsOnPacks(const TensorView& v, int64_t cols) {
  return !v || (reinterpret_cast<uintptr_t>(v.data) % 16 == 0 && cols * dtypeBytes(v.dtype) % 16 == 0);
}

// Calls f with a compile-time boolean. Host code.
template <class F>
void withFlag(bool flag, const F& f) {
  if (flag)
    f(std::true_type());
  else
    f(std::false_type());
}

// V elements of which the row still has `count`; zeros after its end. Packed: a row ends with a whole chunk.
template <bool Packed, int V, class T>
__device__ __forceinline__ void loadFloats(const T* p, int count, float (&to)[V]) {
  constexpr int n = V < kPerPack<T> ? V : kPerPack<T>;
  if constexpr (Packed) {
#pragma unroll
    for (int i = 0; i < V; i += n) {
      Pack<T, n> pack = {};
      if (count > 0) pack = loadPack<n>(p + i);
#pragma unroll
      for (int j = 0; j < n; ++j) to[i + j] = toFloat(pack.v[j]);
    }
  } else {
#pragma unroll
    for (int j = 0; j < V; ++j) to[j] = j < count ? toFloat(p[j]) : 0.0f;
  }
}

template <bool Packed, int V, class T>
__device__ __forceinline__ void storeFloats(T* p, int count, const float (&from)[V]) {
  constexpr int n = V < kPerPack<T> ? V : kPerPack<T>;
  if constexpr (Packed) {
    if (count <= 0) return;
#pragma unroll
    for (int i = 0; i < V; i += n) {
      Pack<T, n> pack;
#pragma unroll
      for (int j = 0; j < n; ++j) pack.v[j] = fromFloat<T>(from[i + j]);
      storePack(p + i, pack);
    }
  } else {
#pragma unroll
    for (int j = 0; j < V; ++j)
      if (j < count) p[j] = fromFloat<T>(from[j]);
  }
}

// The same where the choice is made at run time.
template <int V, class T>
__device__ __forceinline__ void loadFloats(bool packed, const T* p, int count, float (&to)[V]) {
  if (packed)
    loadFloats<true>(p, count, to);
  else
    loadFloats<false>(p, count, to);
}
template <int V, class T>
__device__ __forceinline__ void storeFloats(bool packed, T* p, int count, const float (&from)[V]) {
  if (packed)
    storeFloats<true>(p, count, from);
  else
    storeFloats<false>(p, count, from);
}

}  // namespace infinity::cuda
