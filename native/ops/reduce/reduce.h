// Sums and means over neighbouring axes.
#pragma once
#include "core/tensor.h"

namespace infinity {

struct SumAxesParams {
  uint32_t first, count;  // the axes that are summed
  uint32_t mean;          // 1: divide by the number of terms
};

// x seen as [outer, n, inner], n being summed.
struct ReduceShape {
  int64_t outer = 1, n = 1, inner = 1;

  ReduceShape(const TensorView& x, const SumAxesParams& p) {
    for (uint32_t i = 0; i < x.rank; ++i) (i < p.first ? outer : i < p.first + p.count ? n : inner) *= x.dims[i];
  }
  // Terms that one partial sum takes: the order of a sum depends on n alone.
  int64_t chunk() const { return inner == 1 ? 4096 : 64; }
  int64_t chunks() const { return (n + chunk() - 1) / chunk(); }
};

}  // namespace infinity
