// A graphics card, through the library node_infinity_cuda.so.
#pragma once
#include <string>

#include "core/backend.h"
#include "cuda/library.h"

namespace infinity {

class CudaBackend final : public Backend {
 public:
  // `library` is the path of the shared library. Throws CoreError DEVICE_UNAVAILABLE with what is missing,
  // INVALID_ARGUMENT.
  CudaBackend(const std::string& library, const cuda::CardOptions& options);
  ~CudaBackend() override;

  const char* name() const override { return info_.name; }
  int threads() const override { return 1; }
  size_t memory() const override { return static_cast<size_t>(info_.memory / 100 * 95); }
  bool hostMemory() const override { return false; }
  uint64_t launches() const override { return library_->launches(card_); }
  std::string decisions() const override;
  void* allocate(size_t bytes) override { return library_->allocate(card_, bytes); }
  size_t freeMemory() override { return library_->freeMemory(card_); }
  void release(void* block) override { library_->release(card_, block); }
  KernelRef find(OpId op, const TensorView* operands, uint32_t inputs, uint32_t outputs) const override;
  size_t scratchBytes(const KernelRef& kernel, const KernelCall& call) const override;
  void wait() override { library_->wait(card_); }
  void fillNow(void* to, unsigned char byte, size_t bytes) override;
  void copyNow(void* host, const void* from, size_t bytes) override { library_->copyNow(card_, host, from, bytes); }
  void run(const KernelRef& kernel, const KernelCall& call, Failure* failure) override;
  void* record(const std::function<void()>& commands) override;
  void replay(void* recording, uint32_t request, Failure* failure) override;
  void forget(void* recording) override { library_->forget(card_, static_cast<cuda::Graph*>(recording)); }
  void upload(void* to, const void* host, size_t bytes) override;
  void fill(void* to, unsigned char byte, size_t bytes) override;
  void finish(uint32_t request, void* host, const void* from, size_t bytes, Done done) override;

 private:
  void keep(const cuda::CallFailure& failure);

  const cuda::Library* library_;
  cuda::DeviceInfo info_ = {};
  cuda::Card* card_;
  cuda::CallFailure lost_;  // of a copy: everything after it is wrong, so every later kernel reports it
};

}  // namespace infinity
