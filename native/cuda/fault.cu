#include "cuda/fault.h"

#include "cuda/launch.h"

namespace infinity::cuda {
namespace {

__global__ void takeFault(uint32_t* from, uint32_t* to) {
  if (const uint32_t found = *from) {
    *to |= found;
    *from = 0;
  }
}

}  // namespace

void moveFault(const KernelArgs& a, uint32_t* from) { launch(a, "program: faults", takeFault, {1, 1}, from, a.fault); }

}  // namespace infinity::cuda
