// How a CUDA kernel is written and how it announces itself. native/ops/<family>/cuda.cu is compiled by nvcc into
// node_infinity_cuda.so, and by the host compiler over tests/simt.h into its emulated twin; both are the same source.
// Everything sits in `namespace infinity::cuda { namespace { ... } }`.
#pragma once
#include <atomic>

#include "cuda/library.h"
#include "cuda/platform.h"

namespace infinity::cuda {

class ProductRoutes;  // cuda/route.h

struct KernelArgs {
  const TensorView* in;
  const TensorView* out;
  const uint32_t* params;
  void* scratch;  // device memory, as many bytes as the plan asked for, 256-byte aligned, contents undefined
  Stream stream;
  uint32_t* fault;  // device memory: the request's fault word, see Fault
  const DeviceFacts* device;
  CallFailure* failure;
  std::atomic<uint64_t>* launches;  // counted, for benchmarks
  ProductRoutes* routes = nullptr;  // of the card

  // The op's parameter struct: one 32-bit field for each entry of the ops.def line, in order.
  template <class P>
  const P& paramsAs() const {
    static_assert(sizeof(P) % 4 == 0 && alignof(P) <= 4, "parameters are 32-bit words");
    return *reinterpret_cast<const P*>(params);
  }
  template <class T>
  T* scratchAs() const {
    return static_cast<T*>(scratch);
  }
};

// Puts the op's launches on the stream. Host code: must not look at the contents of tensors.
using LaunchFn = void (*)(const KernelArgs&);
// Scratch bytes for these shapes: a pure function of shapes, dtypes, parameters and device facts.
using PlanFn = size_t (*)(const KernelArgs&);
// Whether there is a kernel for these dtypes; null stands for "every floating operand is f32".
using AcceptFn = bool (*)(const TensorView* in, const TensorView* out);

struct KernelEntry {
  const char* op;  // its name in ops.def
  LaunchFn launch;
  PlanFn plan;      // null: no scratch
  AcceptFn accept;  // see AcceptFn
};

// Entries are constant data in a section of their own; nothing refers to them by name.
#define INFINITY_CUDA_KERNEL(op, launch, plan, accept)           \
  extern const ::infinity::cuda::KernelEntry cuda_entry_##op;    \
  __attribute__((section("inf_cuda_kernels"), used, aligned(8))) \
  const ::infinity::cuda::KernelEntry cuda_entry_##op = {#op, launch, plan, accept}

}  // namespace infinity::cuda
