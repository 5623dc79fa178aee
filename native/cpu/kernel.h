// How a CPU kernel is written and how it announces itself. Each native/ops/<family>/cpu.cc is compiled once per
// instruction set with INFINITY_ISA naming it; kernels sit in `namespace infinity::INFINITY_ISA { namespace { ... } }`.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/tensor.h"
#include "cpu/pool.h"

namespace infinity {

enum class OpId : uint16_t;  // core/ops.h

// The first failure of a command; a kernel sets it and returns. `code` and `message` must be string literals.
struct KernelFailure {
  const char* code = nullptr;
  const char* message = nullptr;
};

struct KernelArgs {
  const TensorView* in;
  const TensorView* out;
  const uint32_t* params;
  void* scratch;  // as many bytes as the plan asked for, 64-byte aligned, contents undefined
  Pool* pool;
  KernelFailure* failure;

  // The op's parameter struct: one 32-bit field for each entry of the ops.def line, in order.
  template <class P>
  const P& paramsAs() const {
    static_assert(sizeof(P) % 4 == 0 && alignof(P) <= 4, "parameters are 32-bit words");
    return *reinterpret_cast<const P*>(params);
  }
  void fail(const char* code, const char* message) const {
    if (!failure->code) *failure = {code, message};
  }
};

using KernelFn = void (*)(const KernelArgs&);
// Scratch bytes for these shapes: a pure function of shapes, dtypes, parameters and thread count, called at submission.
// `args.in/out` hold shapes and addresses, contents must not be read.
using PlanFn = size_t (*)(const KernelArgs& args);

enum class Isa : uint32_t { generic, avx2, avx512, neon };
constexpr uint32_t kIsaCount = 4;

struct KernelEntry {
  const char* op;  // its name in ops.def: a unit that named ids would be compiled again for every new op
  Isa isa;
  KernelFn f32;  // runs when no operand is f64; operands may mix f32, bf16, i32 and u8 as the op documents
  KernelFn f64;  // the double-precision reference: plain loops, the oracle of every test
  PlanFn plan;   // null: no scratch
};

// Entries are constant data in a section of their own: nothing of an instruction set runs before it is chosen.
#if defined(__APPLE__)
#define INFINITY_KERNEL_SECTION "__DATA,inf_kernels"
#else
#define INFINITY_KERNEL_SECTION "inf_kernels"
#endif
#define INFINITY_KERNEL(op, f32, f64, plan)                           \
  extern const ::infinity::KernelEntry entry_##op;                    \
  __attribute__((section(INFINITY_KERNEL_SECTION), used, aligned(8))) \
  const ::infinity::KernelEntry entry_##op = {#op, ::infinity::Isa::INFINITY_ISA, f32, f64, plan}

// Kernels of one instruction set, or null when the op has none there.
const KernelEntry* findKernel(OpId op, Isa isa);
// The first entry whose name is not in ops.def, or null: what a test asserts.
const KernelEntry* strayKernel();
// True when the compiler built it and both processor and operating system support it.
bool isaUsable(Isa isa);
Isa bestIsa();
const char* isaName(Isa isa);

// About this many elements a tile: small enough to balance two noisy cores, large enough to hide the counter.
constexpr int64_t kElementsPerTile = 16384;
constexpr int64_t tilesFor(int64_t n, int64_t perTile = kElementsPerTile) { return (n + perTile - 1) / perTile; }

}  // namespace infinity
