// Normalisation over the last axis (layer, adaptive, root mean square), over channel groups of a picture, and the gated
// residual. Statistics are kept for the backward pass as [..., 2]: mean and 1/√(variance + eps).
#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace infinity {

enum class RowNorm { layer, ada, rms };

struct NormParams {
  float eps;
};

struct GroupNormParams {
  uint32_t groups;
  float eps;
  uint32_t silu;
};

struct GroupStatsParams {
  uint32_t groups;
  float eps;
};

struct GroupApplyParams {
  uint32_t groups, silu;
};

// Parameter gradients are summed over runs of this many rows first, then over the runs: the order depends on the number
// of rows that share a parameter and on nothing else.
constexpr int64_t kRowsPerRun = 32;

// How the rows of x [..., C] share a parameter of one row (a weight) or of one row a sample (a modulation).
struct RowSharing {
  int64_t groups, rows, runs;  // rows and runs in each group
  RowSharing(const TensorView& x, const TensorView& parameter)
      : groups(parameter ? parameter.size() / x.cols() : 1),
        rows(x.rows() / groups),
        runs((rows + kRowsPerRun - 1) / kRowsPerRun) {}
};

// A picture is summed in runs of pixels, about 64 KiB each, so that it is read from memory once though its variance
// takes two passes.
struct PixelRuns {
  int64_t batch, pixels, channels, perRun, runs;
  explicit PixelRuns(const TensorView& x)
      : batch(x.dims[0]),
        pixels(x.size() / x.dims[0] / x.cols()),
        channels(x.cols()),
        perRun(channels >= 16384 ? 1 : 16384 / channels),
        runs((pixels + perRun - 1) / perRun) {}
  int64_t firstPixel(int64_t run) const { return run * perRun; }
  int64_t pixelsIn(int64_t run) const { return pixels - firstPixel(run) < perRun ? pixels - firstPixel(run) : perRun; }
};

}  // namespace infinity
