// What a device computes with: processor or graphics card. The device finds a kernel and plans its memory on the
// JavaScript thread; the queue runs it on a thread of its own, in the order of submission.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "core/error.h"
#include "core/ops.h"
#include "core/tensor.h"

namespace infinity {

struct KernelCall {
  const TensorView* in;
  const TensorView* out;
  const uint32_t* params;
  void* scratch;
  uint32_t request;  // number of the token: failures that are seen later belong to it
};

// An op's kernel for given operands; the backend alone knows what `entry` is.
struct KernelRef {
  const void* entry = nullptr;
  bool wide = false;  // an operand is f64
  explicit operator bool() const { return entry != nullptr; }
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const char* name() const = 0;            // "avx512", "NVIDIA H200"
  virtual int threads() const = 0;                 // that compute on the processor
  virtual size_t memory() const = 0;               // bytes that tensors may take unless a limit is given
  virtual bool hostMemory() const = 0;             // tensors lie in the memory of this process
  virtual uint64_t launches() const { return 0; }  // kernels that a card was given so far
  // What a card chose for products and attentions so far, a line each.
  virtual std::string decisions() const { return ""; }

  // --- on the JavaScript thread
  virtual void* allocate(size_t bytes) = 0;         // null when there is no memory
  virtual size_t freeMemory() { return SIZE_MAX; }  // bytes that it could still give, where it can tell
  virtual void release(void* block) = 0;
  virtual void trimmed() {}  // released blocks may go back to the system
  // Empty when these dtypes have no kernel; throws CoreError DEVICE_UNAVAILABLE when the op has none at all.
  virtual KernelRef find(OpId op, const TensorView* operands, uint32_t inputs, uint32_t outputs) const = 0;
  virtual size_t scratchBytes(const KernelRef& kernel, const KernelCall& call) const = 0;
  // The next three are used while nothing runs.
  virtual void wait() = 0;  // until what the queue has run is done
  virtual void fillNow(void* to, unsigned char byte, size_t bytes) = 0;
  virtual void copyNow(void* host, const void* from, size_t bytes) = 0;

  // --- on the queue's thread
  // Told what a finished read found; null is success.
  using Done = std::function<void(const Failure*)>;
  virtual void run(const KernelRef& kernel, const KernelCall& call, Failure* failure) = 0;
  // Programs: `commands` calls `run` and `fill`, whose work is kept instead of done. Null where the backend has no form
  // of its own for work that repeats, or could not make one: then the commands are run one by one.
  virtual void* record(const std::function<void()>& commands) {
    static_cast<void>(commands);
    return nullptr;
  }
  virtual void replay(void* recording, uint32_t request, Failure* failure) {
    static_cast<void>(recording), static_cast<void>(request), static_cast<void>(failure);
  }
  virtual void forget(void* recording) { static_cast<void>(recording); }
  virtual void upload(void* to, const void* host, size_t bytes) = 0;
  virtual void fill(void* to, unsigned char byte, size_t bytes) = 0;
  // Copies to the host what the commands before have written, then calls `done`, perhaps from another thread.
  virtual void finish(uint32_t request, void* host, const void* from, size_t bytes, Done done) = 0;
};

}  // namespace infinity
