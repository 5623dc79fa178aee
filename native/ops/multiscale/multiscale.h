// Multi-scale residual quantisation with self-correction. The sign of a residual decides a bit whatever the norm over
// the channels is, so every channel plane goes through all scales on its own. Sources: Infinity,
// infinity/models/bsq_vae/multiscale_bsq.py (MultiScaleBSQ.forward), infinity/models/bitwise_self_correction.py.
#pragma once
#include <cstdint>

#include "core/philox.h"
#include "ops/bits/bits.h"

namespace infinity {

struct MultiscaleParams {
  uint32_t requant;   // 1: inverted bits enter the running sum, and later scales correct them
  uint32_t patchify;  // 1: packed labels and inputs leave as 2×2 blocks, channel 4c + 2dy + dx
  uint32_t trace;     // 1: residuals and inverted bits are written too
  uint32_t stream;    // word of the Philox counter
  float magnitude;    // of a code element; 0: that of unit vectors, 1/√d in the type of the sum
};

namespace {

template <class T>
T magnitudeOf(const MultiscaleParams& p, int64_t d) {
  return p.magnitude > 0 ? static_cast<T>(p.magnitude) : codeMagnitude<T>(d);
}

// The window of an area mean along one axis: [begin, end).
struct Window {
  int32_t begin, end;
};
template <class I>
INFINITY_HD inline Window areaWindow(I from, I to, I i) {
  return {static_cast<int32_t>(i * from / to), static_cast<int32_t>(((i + 1) * from + to - 1) / to)};
}

// Linear interpolation along one axis, half-pixel centres, clamped at the border: (1 − weight)·[lo] + weight·[hi].
template <class T>
struct Tap {
  int32_t lo, hi;
  T weight;
};
// `ratio` is from/to.
template <class T, class I>
INFINITY_HD inline Tap<T> linearTap(T ratio, I i, I from) {
  T at = ratio * (static_cast<T>(i) + T(0.5)) - T(0.5);
  if (at < 0) at = 0;
  const I lo = static_cast<I>(at) < from - 1 ? static_cast<I>(at) : from - 1;
  return {static_cast<int32_t>(lo), static_cast<int32_t>(lo + 1 < from ? lo + 1 : lo), at - static_cast<T>(lo)};
}

// Where element (y, x, channel) of a scale of width w lies among its tokens: in token(y, x) at place(y, x) +
// channel·step(), or with d channels a position at base(y, x) + channel·step() of all.
struct TokenLayout {
  int64_t w;
  bool patchify;
  INFINITY_HD int64_t token(int64_t y, int64_t x) const { return patchify ? (y / 2) * (w / 2) + x / 2 : y * w + x; }
  INFINITY_HD int64_t place(int64_t y, int64_t x) const { return patchify ? 2 * (y & 1) + (x & 1) : 0; }
  INFINITY_HD int64_t step() const { return patchify ? 4 : 1; }
  INFINITY_HD int64_t base(int64_t y, int64_t x, int64_t d) const { return token(y, x) * step() * d + place(y, x); }
};

}  // namespace

}  // namespace infinity
