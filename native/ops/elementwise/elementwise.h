// Pointwise maps and their gradients, written once over T: vectors of float on each instruction set, plain double as
// the reference.
#pragma once
#include "core/tensor.h"

namespace infinity {

struct ScaleParams {
  float factor;
};

// Strides of one operand under right-aligned broadcasting to `out`; 0 where its extent is 1 or absent.
inline void broadcastStrides(const TensorView& v, const TensorView& out, int64_t* strides) {
  int64_t stride = 1;
  for (uint32_t i = 0; i < out.rank; ++i) {
    const uint32_t axis = out.rank - 1 - i;
    if (i >= v.rank) {
      strides[axis] = 0;
      continue;
    }
    const uint32_t extent = v.dims[v.rank - 1 - i];
    strides[axis] = extent == 1 ? 0 : stride;
    stride *= extent;
  }
}

}  // namespace infinity
