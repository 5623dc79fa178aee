// CUDA on the host, for tests: every thread of a block is a fibre, blocks run one after the other. The order in which
// fibres run changes from block to block, so that a missing barrier shows as a wrong result, and a barrier that not
// every thread reaches ends the process with the kernel's name. Kernels come through cuda/platform.h and cuda/launch.h
// and are the same source that nvcc compiles; only what this header has can be used by them.
//
// Strict where hardware is lenient: a warp operation must be reached by all lanes of the warp, with a full mask.
#pragma once
#define INFINITY_SIMT 1
#pragma GCC diagnostic ignored "-Wunknown-pragmas"  // unroll

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __grid_constant__
// Blocks run one at a time: what is static is shared by the threads of one block.
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace simt {

struct Position {
  dim3 thread, block, blockSize, gridSize;
  unsigned lane;
};
const Position& position();

// Calls `body` once for every thread of the grid.
void runErased(const char* name, dim3 grid, dim3 block, size_t shared, void (*body)(void*), void* context);
template <class F>
void run(const char* name, dim3 grid, dim3 block, size_t shared, F&& body) {
  runErased(
      name, grid, block, shared, [](void* f) { (*static_cast<std::remove_reference_t<F>*>(f))(); }, &body);
}

void blockBarrier();
// Gives the other lanes `bytes` (at most 64) and waits for theirs: the result holds one 64-byte slot a lane until the
// lane's next exchange but one.
const unsigned char* exchange(unsigned mask, const void* mine, size_t bytes);
// The block's dynamic shared memory, filled with NaN patterns when the block starts.
constexpr size_t kMostShared = 232448;
void* dynamicShared();
// Lets other threads of the block run until ready(context), which may do what has to happen first. When no thread can
// go on, the process ends with `what`.
void waitUntil(const char* what, bool (*ready)(void*), void* context);
// Lets the other threads of the block take a turn.
void letOthersRun();
// Ends the process, naming kernel, block and thread.
[[noreturn]] void stop(const char* what);
// Counts blocks: what is kept beside shared memory belongs to one of them.
uint64_t blockNumber();

constexpr size_t kSlotBytes = 64;
template <class T>
T slot(const unsigned char* slots, unsigned lane) {
  T value;
  std::memcpy(&value, slots + lane * kSlotBytes, sizeof(T));
  return value;
}

}  // namespace simt

#define threadIdx (::simt::position().thread)
#define blockIdx (::simt::position().block)
#define blockDim (::simt::position().blockSize)
#define gridDim (::simt::position().gridSize)

inline void __syncthreads() { ::simt::blockBarrier(); }
inline int __syncthreads_or(int predicate) {
  static int any;
  ::simt::blockBarrier();
  any = 0;
  ::simt::blockBarrier();
  if (predicate) any = 1;
  ::simt::blockBarrier();
  return any;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __syncwarp(unsigned mask = 0xffffffffu) { ::simt::exchange(mask, nullptr, 0); }

template <class T>
T __shfl_sync(unsigned mask, T x, int lane, int width = 32) {
  const unsigned own = ::simt::position().lane;
  const unsigned char* all = ::simt::exchange(mask, &x, sizeof x);
  return ::simt::slot<T>(all, (own & ~(width - 1u)) | (static_cast<unsigned>(lane) & (width - 1u)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int bits, int width = 32) {
  const unsigned own = ::simt::position().lane, other = own ^ static_cast<unsigned>(bits);
  const unsigned char* all = ::simt::exchange(mask, &x, sizeof x);
  return (other & ~(width - 1u)) > (own & ~(width - 1u)) ? x : ::simt::slot<T>(all, other);
}
template <class T>
T __shfl_up_sync(unsigned mask, T x, unsigned by, int width = 32) {
  const unsigned own = ::simt::position().lane;
  const unsigned char* all = ::simt::exchange(mask, &x, sizeof x);
  return own % width < by ? x : ::simt::slot<T>(all, own - by);
}
template <class T>
T __shfl_down_sync(unsigned mask, T x, unsigned by, int width = 32) {
  const unsigned own = ::simt::position().lane;
  const unsigned char* all = ::simt::exchange(mask, &x, sizeof x);
  return own % width + by >= static_cast<unsigned>(width) ? x : ::simt::slot<T>(all, own + by);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const unsigned char* all = ::simt::exchange(mask, &predicate, sizeof predicate);
  unsigned bits = 0;
  for (unsigned lane = 0; lane < 32; ++lane) bits |= static_cast<unsigned>(::simt::slot<int>(all, lane) != 0) << lane;
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == 0xffffffffu; }

// Fibres never run at the same time.
template <class T>
T atomicAdd(T* at, std::type_identity_t<T> by) {
  const T old = *at;
  *at = old + by;
  return old;
}
template <class T>
T atomicMax(T* at, std::type_identity_t<T> with) {
  const T old = *at;
  if (with > old) *at = with;
  return old;
}
template <class T>
T atomicOr(T* at, std::type_identity_t<T> with) {
  const T old = *at;
  *at = old | with;
  return old;
}
template <class T>
T atomicExch(T* at, std::type_identity_t<T> with) {
  const T old = *at;
  *at = with;
  return old;
}
template <class T>
T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> with) {
  const T old = *at;
  if (old == expected) *at = with;
  return old;
}

template <class To, class From>
To simtBitCast(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &x, sizeof to);
  return to;
}
inline uint32_t __float_as_uint(float x) { return simtBitCast<uint32_t>(x); }
inline int __float_as_int(float x) { return simtBitCast<int>(x); }
inline float __uint_as_float(uint32_t x) { return simtBitCast<float>(x); }
inline float __int_as_float(int x) { return simtBitCast<float>(x); }
template <class T>
T __ldg(const T* p) {
  return *p;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
using std::isfinite;
template <class T>
constexpr T min(T a, std::type_identity_t<T> b) {
  return b < a ? b : a;
}
template <class T>
constexpr T max(T a, std::type_identity_t<T> b) {
  return a < b ? b : a;
}

struct float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }

namespace simt {

// Work is done when it is put on the stream, unless it is being recorded.
struct Stream {
  std::vector<std::function<void()>>* recording = nullptr;
};

}  // namespace simt

namespace infinity::cuda {
using Stream = simt::Stream*;
}

#include "tests/simt_hopper.h"
