// What recorded work found wrong belongs to the request that it last ran for.
#pragma once
#include "cuda/kernel.h"

namespace infinity::cuda {

// Puts a kernel on the stream that adds the faults at `from` to those of the request (a.fault), and clears them.
void moveFault(const KernelArgs& a, uint32_t* from);

}  // namespace infinity::cuda
