// Numbers as kernels see them: stored as float or bf16, computed as float.
#pragma once
#include "cuda/kernel.h"

namespace infinity::cuda {

// The upper half of a float; rounding is to nearest, ties to even.
struct bf16 {
  uint16_t bits;
};

__device__ __forceinline__ float toFloat(float x) { return x; }
__device__ __forceinline__ float toFloat(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }

__device__ __forceinline__ bf16 roundToBf16(float x) {
  const uint32_t u = __float_as_uint(x);
  if (x != x) return {static_cast<uint16_t>(u >> 16 | 0x40)};
  return {static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}

template <class T>
__device__ __forceinline__ T fromFloat(float x);
template <>
__device__ __forceinline__ float fromFloat<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 fromFloat<bf16>(float x) {
#if defined(INFINITY_SIMT)
  return roundToBf16(x);
#else
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#endif
}

// Up to 16 bytes in one access; pointers are aligned to it.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};
template <class T>
constexpr int kPerPack = 16 / static_cast<int>(sizeof(T));

template <int N, class T>
__device__ __forceinline__ Pack<T, N> loadPack(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <int N, class T>
__device__ __forceinline__ void storePack(T* p, const Pack<T, N>& x) {
  *reinterpret_cast<Pack<T, N>*>(p) = x;
}

// Calls f(T{}) with the type that the tensor stores. Host code.
template <class F>
void withElement(DType type, const F& f) {
  if (type == DType::bf16)
    f(bf16{});
  else
    f(float{});
}

// For KernelEntry::accept.
inline bool isFloating(const TensorView& v) { return v && v.dtype != DType::i32 && v.dtype != DType::u8; }
// What kernels store numbers as; f32, or an operand that is left out.
inline bool isStored(const TensorView& v) { return v.dtype == DType::f32 || v.dtype == DType::bf16; }
inline bool isF32(const TensorView& v) { return !v || v.dtype == DType::f32; }

// Every floating operand is f32, or every one bf16.
template <int Ins, int Outs>
bool acceptOneFloat(const TensorView* in, const TensorView* out) {
  const DType type = out[0].dtype;
  if (type != DType::f32 && type != DType::bf16) return false;
  for (int k = 0; k < Ins; ++k)
    if (isFloating(in[k]) && in[k].dtype != type) return false;
  for (int k = 0; k < Outs; ++k)
    if (isFloating(out[k]) && out[k].dtype != type) return false;
  return true;
}

}  // namespace infinity::cuda
