#include "cpu/backend.h"

#include <cstdlib>
#include <cstring>

#include "core/env.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace infinity {
namespace {

constexpr size_t kCacheLine = 64;
constexpr size_t kPage = 4096;
constexpr size_t kHugeFrom = size_t{1} << 22;

Isa chooseIsa(const std::string& given) {
  const std::string wanted = given.empty() ? readEnv().isa : given;
  if (wanted.empty()) return bestIsa();
  for (Isa isa : {Isa::generic, Isa::avx2, Isa::avx512, Isa::neon}) {
    if (wanted != isaName(isa)) continue;
    if (!isaUsable(isa))
      throw CoreError("DEVICE_UNAVAILABLE", "This processor cannot run the '" + wanted + "' kernels.");
    return isa;
  }
  throw CoreError("INVALID_ARGUMENT",
                  "Expected generic, avx2, avx512 or neon for the instruction set but received '" + wanted + "'.");
}

int chooseThreads(int given) {
  constexpr int kMost = 256;
  const int fromEnv = readEnv().threads;
  const int n = given > 0 ? given : fromEnv > 0 ? fromEnv : availableProcessors();
  return n > kMost ? kMost : n;
}

const KernelEntry& entryOf(const KernelRef& kernel) { return *static_cast<const KernelEntry*>(kernel.entry); }

}  // namespace

CpuBackend::CpuBackend(const std::string& isa, int threads) : isa_(chooseIsa(isa)), pool_(chooseThreads(threads)) {}

size_t CpuBackend::memory() const { return availableMemory() / 10 * 8; }

void* CpuBackend::allocate(size_t bytes) {
  void* p = std::aligned_alloc(bytes >= kHugeFrom ? kPage : kCacheLine, (bytes + kPage - 1) / kPage * kPage);
#if defined(__linux__)
  if (p && bytes >= kHugeFrom) madvise(p, bytes, MADV_HUGEPAGE);
#endif
  return p;
}

void CpuBackend::release(void* block) { std::free(block); }

void CpuBackend::trimmed() {
#if defined(__GLIBC__)
  // Freed blocks of some megabytes stay with the process otherwise.
  malloc_trim(0);
#endif
}

KernelRef CpuBackend::find(OpId op, const TensorView* operands, uint32_t inputs, uint32_t outputs) const {
  const KernelEntry* entry = findKernel(op, isa_);
  if (!entry)
    throw CoreError("DEVICE_UNAVAILABLE", std::string("The op '") + opInfo(op).name + "' has no '" + isaName(isa_) +
                                              "' kernel in this build.");
  bool wide = false;
  for (uint32_t i = 0; i < inputs + outputs; ++i) wide |= operands[i] && operands[i].dtype == DType::f64;
  const KernelRef kernel{entry, wide};
  return (wide ? entry->f64 : entry->f32) ? kernel : KernelRef{};
}

size_t CpuBackend::scratchBytes(const KernelRef& kernel, const KernelCall& call) const {
  const KernelEntry& entry = entryOf(kernel);
  if (!entry.plan) return 0;
  // The plan sees the pool's width only; it cannot start work.
  return entry.plan({call.in, call.out, call.params, nullptr, const_cast<Pool*>(&pool_), nullptr});
}

void CpuBackend::run(const KernelRef& kernel, const KernelCall& call, Failure* failure) {
  KernelFailure found;
  const KernelArgs args{call.in, call.out, call.params, call.scratch, &pool_, &found};
  (kernel.wide ? entryOf(kernel).f64 : entryOf(kernel).f32)(args);
  if (found.code) *failure = {found.code, found.message};
}

void CpuBackend::fillNow(void* to, unsigned char byte, size_t bytes) { std::memset(to, byte, bytes); }
void CpuBackend::copyNow(void* host, const void* from, size_t bytes) { std::memcpy(host, from, bytes); }
void CpuBackend::upload(void* to, const void* host, size_t bytes) { std::memcpy(to, host, bytes); }
void CpuBackend::fill(void* to, unsigned char byte, size_t bytes) { std::memset(to, byte, bytes); }

void CpuBackend::finish(uint32_t, void* host, const void* from, size_t bytes, Done done) {
  if (bytes) std::memcpy(host, from, bytes);
  done(nullptr);
}

}  // namespace infinity
