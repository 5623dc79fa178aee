// A convolution as phases, each a list of taps: see cpu/conv.h. What forward, gradients and upsampling share is only
// this.
#pragma once
#include <cstdint>

namespace infinity {
namespace {

constexpr int kMaxKernel = 8;
constexpr int kMaxTaps = kMaxKernel * kMaxKernel;

// Reads the input at (dy, dx) from the grid position, times the sum of these taps of the kernel (ky·kw + kx).
struct Tap {
  int dy, dx;
  int weights;
  int weight[4];
};
struct Phase {
  int count = 0;
  Tap tap[kMaxTaps];
};

// The same along one axis; a phase is the product of two.
struct AxisTap {
  int offset;
  int weights;
  int weight[2];
};
struct Axis {
  int count = 0;
  AxisTap tap[kMaxKernel];
};

inline Phase combine(const Axis& y, const Axis& x, int kw) {
  Phase phase;
  for (int i = 0; i < y.count; ++i) {
    for (int j = 0; j < x.count; ++j) {
      const AxisTap &a = y.tap[i], &b = x.tap[j];
      Tap& tap = phase.tap[phase.count++];
      tap = {a.offset, b.offset, 0, {}};
      for (int m = 0; m < a.weights; ++m)
        for (int n = 0; n < b.weights; ++n) tap.weight[tap.weights++] = a.weight[m] * kw + b.weight[n];
    }
  }
  return phase;
}

inline Axis forwardAxis(int kernel, int pad) {
  Axis axis;
  for (int k = 0; k < kernel; ++k) axis.tap[axis.count++] = {k - pad, 1, {k, 0}};
  return axis;
}

// Inputs at position s·q + p receive from outputs q + (p + pad − k) / s, for the k that divide.
inline Axis inputGradientAxis(int kernel, int pad, int stride, int p) {
  Axis axis;
  for (int k = kernel - 1; k >= 0; --k) {
    const int at = p + pad - k;
    if (at % stride == 0) axis.tap[axis.count++] = {at / stride, 1, {k, 0}};
  }
  return axis;
}

// Nearest ×2, then three taps with one zero at each end: the row 2q + p of the result sees two rows of the input.
inline Axis upsampleAxis(int p) {
  if (p == 0) return {2, {{-1, 1, {0, 0}}, {0, 2, {1, 2}}}};
  return {2, {{0, 2, {0, 1}}, {1, 1, {2, 0}}}};
}

// Row q of the input is seen by the rows 2q − 1 … 2q + 2 of the result.
inline Axis upsampleInputGradientAxis() {
  return {4, {{-1, 1, {2, 0}}, {0, 2, {1, 2}}, {1, 2, {0, 1}}, {2, 1, {0, 0}}}};
}

}  // namespace
}  // namespace infinity
