// Resampling of channels-last pictures [B, H, W, C], one axis at a time: where an output position reads, and how much
// of each place it takes. The windows and centres are those of torch's interpolate (mode area, bilinear with
// align_corners=False and no antialiasing, nearest).
#pragma once
#include "core/philox.h"
#include "core/tensor.h"

namespace infinity {

enum class ResampleMode : uint32_t { area = 0, linear = 1, nearest = 2 };

struct ResampleParams {
  uint32_t mode;        // a ResampleMode
  uint32_t transposed;  // 1: the gradient, from the output's grid back to the input's
};

// The input positions [start, start + count) of one output position. Only `linear` weighs them differently.
struct AxisTaps {
  int64_t start, count;
  double first, last;  // weights of the first and of every other position

  INFINITY_HD double weight(int64_t k) const { return k == 0 ? first : last; }
};

INFINITY_HD inline AxisTaps resampleTaps(ResampleMode mode, int64_t in, int64_t out, int64_t position) {
  if (mode == ResampleMode::nearest) return {position * in / out, 1, 1, 0};
  if (mode == ResampleMode::area) {
    const int64_t start = position * in / out, end = ((position + 1) * in + out - 1) / out;
    const double share = 1.0 / static_cast<double>(end - start);
    return {start, end - start, share, share};
  }
  // Half-pixel centres, clamped at the border.
  double at = (static_cast<double>(position) + 0.5) * static_cast<double>(in) / static_cast<double>(out) - 0.5;
  if (at < 0) at = 0;
  const int64_t start = static_cast<int64_t>(at);
  if (start >= in - 1) return {in - 1, 1, 1, 0};
  const double last = at - static_cast<double>(start);
  // Left out: a place that all positions near the border read with weight zero would be read by too many of them.
  if (last == 0) return {start, 1, 1, 0};
  return {start, 2, 1 - last, last};
}

// No position of an axis reads (or, transposed, receives from) more than this many.
inline int64_t maxResampleTaps(int64_t from, int64_t to) {
  const int64_t bound = 2 * ((from + to - 1) / to) + 3;
  return bound < from ? bound : from;
}

}  // namespace infinity
