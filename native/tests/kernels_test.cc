// The table of kernels against ops.def: a misspelt or forgotten entry would only be met by whoever calls the op.
#include "core/ops.h"
#include "cpu/kernel.h"
#include "tests/expect.h"

int main() {
  using namespace infinity;
  const KernelEntry* stray = strayKernel();
  if (stray) std::fprintf(stderr, "no such op in ops.def: %s\n", stray->op);
  EXPECT(!stray);
  for (uint32_t isa = 0; isa < kIsaCount; ++isa) {
    if (!isaUsable(static_cast<Isa>(isa))) continue;
    for (uint32_t op = 0; op < kOpCount; ++op) {
      const KernelEntry* kernel = findKernel(static_cast<OpId>(op), static_cast<Isa>(isa));
      if (!kernel)
        std::fprintf(stderr, "no %s kernel for %s\n", isaName(static_cast<Isa>(isa)),
                     opInfo(static_cast<OpId>(op)).name);
      EXPECT(kernel);
    }
  }
}
