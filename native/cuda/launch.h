// The only way a kernel is launched: named for profilers, checked, with its dynamic shared memory allowed.
#pragma once
#include <cstdio>

#include "cuda/kernel.h"

#if defined(INFINITY_SIMT)
#include <tuple>
#else
#include <nvtx3/nvToolsExt.h>
#endif

namespace infinity::cuda {

struct LaunchShape {
  dim3 grid, block;
  size_t shared = 0;  // dynamic shared memory, bytes
};

#if defined(INFINITY_SIMT)

template <class... P, class... A>
void launch(const KernelArgs& a, const char* name, void (*kernel)(P...), const LaunchShape& shape, A&&... args) {
  a.launches->fetch_add(1, std::memory_order_relaxed);
  // As a graph does, recorded work keeps the arguments' values.
  const auto work = [=, values = std::tuple<std::decay_t<P>...>(static_cast<P>(args)...)] {
    simt::run(name, shape.grid, shape.block, shape.shared, [&] { std::apply(kernel, values); });
  };
  if (a.stream && a.stream->recording)
    a.stream->recording->emplace_back(work);
  else
    work();
}

#else

inline void fail(const KernelArgs& a, const char* name, cudaError_t error) {
  if (error == cudaSuccess || a.failure->code) return;
  a.failure->code = error == cudaErrorMemoryAllocation ? "OUT_OF_MEMORY" : "DEVICE_UNAVAILABLE";
  std::snprintf(a.failure->message, sizeof a.failure->message, "The kernel '%s' could not be launched: %s.", name,
                cudaGetErrorString(error));
}

template <class... P, class... A>
void launch(const KernelArgs& a, const char* name, void (*kernel)(P...), const LaunchShape& shape, A&&... args) {
  constexpr size_t kAlwaysAllowed = 48 * 1024;
  if (shape.shared > kAlwaysAllowed)
    fail(a, name,
         cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(shape.shared)));
  a.launches->fetch_add(1, std::memory_order_relaxed);
  nvtxRangePushA(name);
  kernel<<<shape.grid, shape.block, shape.shared, a.stream>>>(static_cast<P>(args)...);
  nvtxRangePop();
  fail(a, name, cudaGetLastError());
}

#endif

// What another library puts on the stream: put(args), of values alone, is named and counted as a kernel of ours is. It
// tells of failures itself.
template <class F>
void launchByLibrary(const KernelArgs& a, const char* name, const F& put) {
  a.launches->fetch_add(1, std::memory_order_relaxed);
#if defined(INFINITY_SIMT)
  static_cast<void>(name);
  put(a);
#else
  nvtxRangePushA(name);
  put(a);
  nvtxRangePop();
#endif
}

__host__ __device__ constexpr int64_t ceilDiv(int64_t n, int64_t by) { return (n + by - 1) / by; }

// A one-dimensional grid over n elements, `perThread` each. Kernels stride over what a grid of this size does not
// reach.
inline LaunchShape overElements(const KernelArgs& a, int64_t n, int perThread = 1, int threads = 256) {
  const int64_t wanted = ceilDiv(n, static_cast<int64_t>(threads) * perThread);
  const int64_t most = static_cast<int64_t>(a.device->processors) * 32;
  return {dim3(static_cast<unsigned>(wanted < most ? wanted : most)), dim3(static_cast<unsigned>(threads)), 0};
}

}  // namespace infinity::cuda
