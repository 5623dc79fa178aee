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

inline bool encode(TensorMap& map, const void* data, const uint64_t (&extents)[3], const uint64_t (&pitches)[2],
                   uint32_t boxOuter) {
  if (reinterpret_cast<uintptr_t>(data) % 16 || pitches[0] % 16 || pitches[1] % 16 || boxOuter - 1 > 255) return false;
  for (uint64_t extent : extents)
    if (extent == 0) return false;
  const simt::TensorMapFields fields = {static_cast<const unsigned char*>(data),
                                        {extents[0], extents[1], extents[2]},
                                        {pitches[0], pitches[1]},
                                        kBoxInner,
                                        boxOuter,
                                        kSwizzleBytes};
  static_assert(sizeof fields <= sizeof map, "fits");
  map = {};
  std::memcpy(&map, &fields, sizeof fields);
  return true;
}
inline bool encodeTensorMap(TensorMap& map, const void* data, uint64_t inner, uint64_t outer, uint32_t boxOuter) {
  const uint64_t pitch = inner * simt::kElementBytes;
  return encode(map, data, {inner, 1, outer}, {pitch, pitch}, boxOuter);
}
inline bool encodeHeadMap(TensorMap& map, const void* data, uint64_t width, uint64_t heads, uint64_t rows,
                          uint32_t boxRows) {
  return encode(map, data, {width, heads, rows}, {width * simt::kElementBytes, heads * width * simt::kElementBytes},
                boxRows);
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

template <uint32_t Rank>
bool encode(TensorMap& map, const void* data, const uint64_t (&extents)[Rank], const uint64_t (&pitches)[Rank - 1],
            const uint32_t (&box)[Rank]) {
  // Values of the driver's enumerations.
  constexpr int kBf16 = 9, kNotInterleaved = 0, kSwizzle128 = 3, kPromoteTo256 = 3, kZeros = 0;
  const uint32_t steps[] = {1, 1, 1};
  return hasTensorMaps() && tensorMapEncoder()(&map, kBf16, Rank, const_cast<void*>(data), extents, pitches, box, steps,
                                               kNotInterleaved, kSwizzle128, kPromoteTo256, kZeros) == 0;
}
// How a matrix of `outer` rows, `inner` elements of bf16 each, is copied: boxes of boxOuter rows (at most 256) of 64
// elements, zeros where they reach outside. Data begin at, and rows have, a multiple of 16 bytes, none is empty. False
// where the driver refuses.
inline bool encodeTensorMap(TensorMap& map, const void* data, uint64_t inner, uint64_t outer, uint32_t boxOuter) {
  return encode<2>(map, data, {inner, outer}, {inner * 2}, {kBoxInner, boxOuter});
}
// The same of rows [rows, heads, width]: boxes of boxRows rows of one head, zeros beyond its width and beyond the rows.
inline bool encodeHeadMap(TensorMap& map, const void* data, uint64_t width, uint64_t heads, uint64_t rows,
                          uint32_t boxRows) {
  return encode<3>(map, data, {width, heads, rows}, {width * 2, heads * width * 2}, {kBoxInner, 1, boxRows});
}

#endif

}  // namespace infinity::cuda
