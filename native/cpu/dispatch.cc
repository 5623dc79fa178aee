// Chooses an instruction set by what was compiled, what the processor has and what the operating system saves.
#include <cstring>
#include <vector>

#include "core/ops.h"
#include "cpu/kernel.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#if defined(__APPLE__)
extern const infinity::KernelEntry kernelsBegin __asm("section$start$__DATA$inf_kernels");
extern const infinity::KernelEntry kernelsEnd __asm("section$end$__DATA$inf_kernels");
#define KERNELS_BEGIN (&kernelsBegin)
#define KERNELS_END (&kernelsEnd)
#else
extern "C" const infinity::KernelEntry __start_inf_kernels[];
extern "C" const infinity::KernelEntry __stop_inf_kernels[];
#define KERNELS_BEGIN __start_inf_kernels
#define KERNELS_END __stop_inf_kernels
#endif

namespace infinity {
namespace {

using Table = std::vector<const KernelEntry*>;

// kOpCount where ops.def has no such name.
uint32_t idOf(const char* name) {
  uint32_t id = 0;
  while (id < kOpCount && std::strcmp(opInfo(static_cast<OpId>(id)).name, name) != 0) ++id;
  return id;
}

const Table* tables() {
  static const Table* all = [] {
    auto* t = new Table[kIsaCount];
    for (uint32_t i = 0; i < kIsaCount; ++i) t[i].assign(kOpCount, nullptr);
    for (const KernelEntry* e = KERNELS_BEGIN; e != KERNELS_END; ++e) {
      const uint32_t id = idOf(e->op);
      if (id < kOpCount) t[static_cast<uint32_t>(e->isa)][id] = e;
    }
    return t;
  }();
  return all;
}

bool compiled(Isa isa) {
  for (const KernelEntry* e : tables()[static_cast<uint32_t>(isa)])
    if (e) return true;
  return false;
}

#if defined(__x86_64__)
bool supported(Isa isa) {
  if (isa == Isa::generic) return true;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return false;
  const bool osxsave = c & (1u << 27), fma = c & (1u << 12), f16c = c & (1u << 29);
  if (!osxsave) return false;
  unsigned xcr0, high;
  __asm__("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool avx2 = (b & (1u << 5)) && fma && f16c && (xcr0 & 0x6) == 0x6;
  if (isa == Isa::avx2) return avx2;
  const unsigned need = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);  // F, DQ, BW, VL
  return isa == Isa::avx512 && avx2 && (b & need) == need && (xcr0 & 0xe6) == 0xe6;
}
#elif defined(__aarch64__)
bool supported(Isa isa) { return isa == Isa::generic || isa == Isa::neon; }
#else
bool supported(Isa isa) { return isa == Isa::generic; }
#endif

}  // namespace

const KernelEntry* findKernel(OpId op, Isa isa) {
  return tables()[static_cast<uint32_t>(isa)][static_cast<uint32_t>(op)];
}

const KernelEntry* strayKernel() {
  for (const KernelEntry* e = KERNELS_BEGIN; e != KERNELS_END; ++e)
    if (idOf(e->op) == kOpCount) return e;
  return nullptr;
}

bool isaUsable(Isa isa) { return compiled(isa) && supported(isa); }

Isa bestIsa() {
  for (Isa isa : {Isa::avx512, Isa::avx2, Isa::neon})
    if (isaUsable(isa)) return isa;
  return Isa::generic;
}

const char* isaName(Isa isa) {
  static const char* const names[] = {"generic", "avx2", "avx512", "neon"};
  return names[static_cast<uint32_t>(isa)];
}

}  // namespace infinity
