// How Hopper's copy engine finds boxes of a matrix: a tensor map, encoded by the driver on the host and passed to
// kernels by value. The driver's encoder is found at run time, so that nothing is linked against the driver.
#pragma once
#include <cstring>

#include "cuda/platform.h"

namespace infinity::cuda {

// For the driver and the hardware to read.
struct alignas(128) TensorMap {
  uint64_t words[16];
};

// A row of a box: 64 elements of bf16, whose 16-byte chunks are permuted in shared memory.
constexpr int kSwizzleBytes = 128;
constexpr uint32_t kBoxInner = kSwizzleBytes / 2;

#if defined(INFINITY_SIMT)

inline bool hasTensorMaps() { return true; }

inline bool encodeTensorMap(TensorMap& map, const void* data, uint64_t inner, uint64_t outer, uint32_t boxOuter) {
  const uint64_t pitch = inner * simt::kElementBytes;
  if (reinterpret_cast<uintptr_t>(data) % 16 || pitch % 16 || inner == 0 || outer == 0 || boxOuter - 1 > 255)
    return false;
  const simt::TensorMapFields fields = {
      static_cast<const unsigned char*>(data), inner, outer, pitch, kBoxInner, boxOuter, kSwizzleBytes};
  static_assert(sizeof fields <= sizeof map, "fits");
  map = {};
  std::memcpy(&map, &fields, sizeof fields);
  return true;
}

#else

using EncodeTiledFn = int (*)(TensorMap*, int type, uint32_t rank, void* data, const uint64_t* extents,
                              const uint64_t* pitches, const uint32_t* box, const uint32_t* steps, int interleave,
                              int swizzle, int promotion, int fill);
inline EncodeTiledFn tensorMapEncoder() {
  static const EncodeTiledFn encoder = [] {
    void* found = nullptr;
#if CUDART_VERSION >= 12050
    constexpr unsigned kSince = 12000;  // the driver's version that had it first
    cudaDriverEntryPointQueryResult result;
    const bool ok = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, kSince, cudaEnableDefault,
                                                     &result) == cudaSuccess &&
                    result == cudaDriverEntryPointSuccess;
#else
    const bool ok = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault) == cudaSuccess;
#endif
    if (!ok) cudaGetLastError();
    return ok ? reinterpret_cast<EncodeTiledFn>(found) : nullptr;
  }();
  return encoder;
}

// Whether the driver knows tensor maps, and the library has code for 9.0 with its own features.
inline bool hasTensorMaps() {
#if defined(INFINITY_CUDA_90A)
  return tensorMapEncoder() != nullptr;
#else
  return false;
#endif
}

// How a matrix of `outer` rows, `inner` elements of bf16 each, is copied: boxes of boxOuter rows (at most 256) of 64
// elements, zeros where they reach outside. Data begin at, and rows have, a multiple of 16 bytes, none is empty. False
// where the driver refuses.
inline bool encodeTensorMap(TensorMap& map, const void* data, uint64_t inner, uint64_t outer, uint32_t boxOuter) {
  // Values of the driver's enumerations.
  constexpr int kBf16 = 9, kNotInterleaved = 0, kSwizzle128 = 3, kPromoteTo256 = 3, kZeros = 0;
  const uint64_t extents[] = {inner, outer}, pitches[] = {inner * 2};
  const uint32_t box[] = {kBoxInner, boxOuter}, steps[] = {1, 1};
  return hasTensorMaps() && tensorMapEncoder()(&map, kBf16, 2, const_cast<void*>(data), extents, pitches, box, steps,
                                               kNotInterleaved, kSwizzle128, kPromoteTo256, kZeros) == 0;
}

#endif

}  // namespace infinity::cuda
