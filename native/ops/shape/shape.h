// Ops that move elements without looking at them.
#pragma once
#include "core/tensor.h"

namespace infinity {

struct PermuteParams {
  uint32_t axes[kMaxRank];  // output axis i is input axis axes[i]
};

struct SliceParams {
  uint32_t axis, start, count;
};

struct WriteSliceParams {
  uint32_t axis, start;
};

struct PadParams {
  uint32_t axis, before;
  float value;
};

struct FillParams {
  float value;
};

// Elements before, along and after an axis.
struct AxisSplit {
  int64_t outer = 1, extent = 1, inner = 1;
  AxisSplit(const TensorView& v, uint32_t axis) {
    for (uint32_t i = 0; i < v.rank; ++i) (i < axis ? outer : i == axis ? extent : inner) *= v.dims[i];
  }
};

// A permutation with the axes that stay neighbours merged: `stride[i]` is how far output axis i moves in the input.
struct PermuteWalk {
  int rank = 0;
  int64_t extent[kMaxRank], stride[kMaxRank];

  PermuteWalk(const TensorView& x, const uint32_t* axes) {
    int64_t strides[kMaxRank];
    int64_t stride1 = 1;
    for (uint32_t i = x.rank; i-- > 0;) {
      strides[i] = stride1;
      stride1 *= x.dims[i];
    }
    for (uint32_t i = 0; i < x.rank; ++i) {
      const int64_t n = x.dims[axes[i]], s = strides[axes[i]];
      if (n == 1) continue;
      if (rank && stride[rank - 1] == s * n) {
        extent[rank - 1] *= n;
        stride[rank - 1] = s;
      } else {
        extent[rank] = n;
        stride[rank++] = s;
      }
    }
    if (rank == 0) {
      extent[0] = 1;
      stride[0] = 1;
      rank = 1;
    }
  }
};

// Counts through several extents, the first the fastest, and knows the offset in source and target without a division a
// step.
struct Odometer {
  int wheels = 0;
  int64_t count = 1, from = 0, to = 0;
  int64_t extent[kMaxRank + 1], fromStride[kMaxRank + 1], toStride[kMaxRank + 1], index[kMaxRank + 1];

  void add(int64_t n, int64_t fromBy, int64_t toBy) {
    extent[wheels] = n;
    fromStride[wheels] = fromBy;
    toStride[wheels] = toBy;
    index[wheels++] = 0;
    count *= n;
  }
  void seek(int64_t position) {
    from = to = 0;
    for (int i = 0; i < wheels; ++i) {
      index[i] = position % extent[i];
      position /= extent[i];
      from += index[i] * fromStride[i];
      to += index[i] * toStride[i];
    }
  }
  void step() {
    for (int i = 0; i < wheels; ++i) {
      from += fromStride[i];
      to += toStride[i];
      if (++index[i] < extent[i]) return;
      from -= extent[i] * fromStride[i];
      to -= extent[i] * toStride[i];
      index[i] = 0;
    }
  }
};

}  // namespace infinity
