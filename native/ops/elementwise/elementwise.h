// Pointwise maps and their gradients, written once over T: vectors of float on each instruction set, plain double as
// the reference.
#pragma once
#include "core/tensor.h"

namespace infinity {

struct ScaleParams {
  float factor;
};

struct AddScalarParams {
  float value;
};

struct ClampParams {
  float lo, hi;
};

// How N operands walk over an output under right-aligned broadcasting: axes of extent 1 are gone, neighbours that every
// operand walks alike are one axis, and a stride is 0 where an operand stands still. On the last axis it is 0 or 1.
template <int N>
struct BroadcastWalk {
  int rank = 0;
  int64_t extent[kMaxRank];
  int64_t stride[N][kMaxRank];

  BroadcastWalk(const TensorView* operands, const TensorView& out) {
    int64_t full[N][kMaxRank];
    for (int k = 0; k < N; ++k) strides(operands[k], out, full[k]);
    for (uint32_t axis = 0; axis < out.rank; ++axis) {
      if (out.dims[axis] == 1) continue;
      bool joins = rank > 0;
      for (int k = 0; k < N; ++k) joins = joins && stride[k][rank - 1] == full[k][axis] * out.dims[axis];
      if (joins) {
        extent[rank - 1] *= out.dims[axis];
      } else {
        extent[rank++] = out.dims[axis];
      }
      for (int k = 0; k < N; ++k) stride[k][rank - 1] = full[k][axis];
    }
    if (rank) return;
    rank = 1;
    extent[0] = 1;
    for (int k = 0; k < N; ++k) stride[k][0] = 1;
  }

  int64_t cols() const { return extent[rank - 1]; }

  // Element offset of operand k at the start of a row (every axis but the last, row-major).
  int64_t offset(int k, int64_t row) const {
    int64_t at = 0;
    for (int axis = rank - 2; axis >= 0; --axis) {
      at += row % extent[axis] * stride[k][axis];
      row /= extent[axis];
    }
    return at;
  }

 private:
  static void strides(const TensorView& v, const TensorView& out, int64_t* result) {
    int64_t stride = 1;
    for (uint32_t i = 0; i < out.rank; ++i) {
      const uint32_t axis = out.rank - 1 - i;
      const uint32_t extent = i < v.rank ? v.dims[v.rank - 1 - i] : 1;
      result[axis] = extent == 1 ? 0 : stride;
      stride *= extent;
    }
  }
};

}  // namespace infinity
