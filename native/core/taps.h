// A convolution as phases, each a rectangle of taps: see cpu/conv.h. Forward, gradients and upsampling differ only in
// these lists.
#pragma once
#include <cstdint>

#include "core/philox.h"

namespace infinity {
namespace {

constexpr int kMaxKernel = 8;

// What one axis of a phase reads: inputs at `first`, `first` + 1, … from the grid position, each times the sum of some
// entries of the kernel.
struct Axis {
  int first = 0;
  int count = 0;
  struct {
    int weights;
    int weight[2];
  } tap[kMaxKernel];
};

struct Phase {
  Axis y, x;
  int kernelWidth = 0;

  INFINITY_HD int taps() const { return y.count * x.count; }
  // Calls f(entry ky·kw + kx of the kernel) for all that tap (i, j) sums.
  template <class F>
  INFINITY_HD void forEachWeight(int i, int j, const F& f) const {
    for (int m = 0; m < y.tap[i].weights; ++m)
      for (int n = 0; n < x.tap[j].weights; ++n) f(y.tap[i].weight[m] * kernelWidth + x.tap[j].weight[n]);
  }
};

inline Axis forwardAxis(int kernel, int pad) {
  Axis axis;
  axis.first = -pad;
  for (int k = 0; k < kernel; ++k) axis.tap[axis.count++] = {1, {k, 0}};
  return axis;
}

// Inputs at position s·q + p receive from outputs q + (p + pad − k) / s, for the k that divide.
inline Axis inputGradientAxis(int kernel, int pad, int stride, int p) {
  Axis axis;
  for (int k = kernel - 1; k >= 0; --k) {
    const int at = p + pad - k;
    if (at % stride != 0) continue;
    if (axis.count == 0) axis.first = at / stride;
    axis.tap[axis.count++] = {1, {k, 0}};
  }
  return axis;
}

// Nearest ×2, then three taps with one zero at each end: the row 2q + p of the result sees two rows of the input.
inline Axis upsampleAxis(int p) {
  if (p == 0) return {-1, 2, {{1, {0, 0}}, {2, {1, 2}}}};
  return {0, 2, {{2, {0, 1}}, {1, {2, 0}}}};
}

// Row q of the input is seen by the rows 2q − 1 … 2q + 2 of the result.
inline Axis upsampleInputGradientAxis() { return {-1, 4, {{1, {2, 0}}, {2, {1, 2}}, {2, {0, 1}}, {1, {0, 0}}}}; }

}  // namespace
}  // namespace infinity
