// The CUDA language as kernels use it: from nvcc, or from the host emulation, where the compiler is given
// `-include tests/simt.h` and finds it already declared.
#pragma once
#if !defined(INFINITY_SIMT)
#include <cuda_bf16.h>
#include <cuda_runtime.h>

namespace infinity::cuda {
using Stream = cudaStream_t;
}
#endif

namespace infinity::cuda {

// The dynamic shared memory of the block, 128-byte aligned; its size is LaunchShape::shared.
template <class T>
__device__ __forceinline__ T* dynamicShared() {
#if defined(INFINITY_SIMT)
  return static_cast<T*>(simt::dynamicShared());
#else
  extern __shared__ __align__(128) unsigned char infinity_dynamic_shared[];
  return reinterpret_cast<T*>(infinity_dynamic_shared);
#endif
}

}  // namespace infinity::cuda
