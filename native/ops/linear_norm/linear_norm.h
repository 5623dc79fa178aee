// A norm of rows between two linear layers, in their epilogues: with f = scale, t = shift, μ and r = 1/√(variance +
// eps) of the rows of x,
//   W·((x − μ)·r ⊙ f + t) + b = r·(W·(x ⊙ f)) − r·μ·(W·f) + W·t + b.
// The layer that makes x leaves x ⊙ f and the moments of rows of x; the one that reads it knows W·f and W·t.
#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace infinity {

// Columns of a run of moments; the last of a row may have fewer. Known in lib/ops/linear_norm.ts.
constexpr int64_t kNormRun = 32;
inline int64_t normRuns(int64_t columns) { return (columns + kNormRun - 1) / kNormRun; }

// linear_measured: x [.., K], W [N, K], bias [N]?, residual [.., N], gate [G, N]?, affine [G', 2, N] (scale, shift)
//   → sum = residual + gate·(x·Wᵀ + b) [.., N], scaled = sum ⊙ scale [.., N], and of the sums before they are rounded
//   moments [.., runs, 2]: mean and squared deviations from it.
// linear_normed: scaled [.., K], W [N, K], bias [N]?, moments [.., runs, 2], projected [G', 2, N] (W·scale, W·shift)
//   → y [.., N]
// Each row of gate, affine and projected serves rows / G consecutive rows.
struct LinearNormedParams {
  float eps;
  uint32_t centred;  // 0: root mean square, whose μ is zero
  uint32_t gelu;
};

// Consecutive rows that share a row of `parameter` [groups, width].
inline int64_t rowsPerGroup(int64_t rows, const TensorView& parameter, int64_t width) {
  return parameter ? rows / (parameter.size() / width) : rows;
}

}  // namespace infinity
