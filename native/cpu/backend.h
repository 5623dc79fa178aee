// The processor: kernels of one instruction set on a pool of threads.
#pragma once
#include <string>

#include "core/backend.h"
#include "cpu/kernel.h"
#include "cpu/pool.h"

namespace infinity {

class CpuBackend : public Backend {
 public:
  // `isa` empty: NODE_INFINITY_CPU_ISA, else the best that this processor has. `threads` 0: NODE_INFINITY_THREADS, else
  // the processors of this process. Throws CoreError INVALID_ARGUMENT or DEVICE_UNAVAILABLE.
  CpuBackend(const std::string& isa, int threads);

  const char* name() const override { return isaName(isa_); }
  int threads() const override { return pool_.threads(); }
  size_t memory() const override;
  bool hostMemory() const override { return true; }
  void* allocate(size_t bytes) override;
  void release(void* block) override;
  void trimmed() override;
  KernelRef find(OpId op, const TensorView* operands, uint32_t inputs, uint32_t outputs) const override;
  size_t scratchBytes(const KernelRef& kernel, const KernelCall& call) const override;
  void wait() override {}
  void fillNow(void* to, unsigned char byte, size_t bytes) override;
  void copyNow(void* host, const void* from, size_t bytes) override;
  void run(const KernelRef& kernel, const KernelCall& call, Failure* failure) override;
  void upload(void* to, const void* host, size_t bytes) override;
  void fill(void* to, unsigned char byte, size_t bytes) override;
  void finish(uint32_t request, void* host, const void* from, size_t bytes, Done done) override;

 private:
  Isa isa_;
  Pool pool_;
};

}  // namespace infinity
