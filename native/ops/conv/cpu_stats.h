// What a convolution may do with its result besides: add another picture to it, and leave the statistics of the group
// norm that follows. Frozen networks of the processor take packed weights and the norm's own kernels instead.
#pragma once
#include <cmath>

#include "cpu/kernel.h"
#include "ops/conv/conv.h"

namespace infinity::INFINITY_ISA {
namespace {

// y += the residual of the same shape, where there is one.
template <class T>
void addResidual(const KernelArgs& a, const TensorView& residual) {
  if (!residual) return;
  const TensorView& y = a.out[0];
  const int64_t n = y.size();
  a.pool->parallelFor(tilesFor(n), [&](int64_t tile) {
    const int64_t end = std::min(n, (tile + 1) * kElementsPerTile);
    for (int64_t i = tile * kElementsPerTile; i < end; ++i) y.as<T>()[i] += residual.as<T>()[i];
  });
}

// Of y [B, H, W, C] the statistics [B, groups, 2]: mean and 1/√(variance + eps), in two passes over each group.
template <class T>
void leaveStats(const KernelArgs& a, const NormAhead& norm) {
  const TensorView &y = a.out[0], &stats = a.out[1];
  const int64_t C = y.cols(), groups = norm.groups, width = C / groups, pixels = y.rows() / y.dims[0];
  a.pool->parallelFor(y.dims[0] * groups, [&](int64_t t) {
    const T* group = y.as<T>() + t / groups * pixels * C + t % groups * width;
    const auto sum = [&](const auto& term) {
      double total = 0;
      for (int64_t p = 0; p < pixels; ++p)
        for (int64_t c = 0; c < width; ++c) total += term(group[p * C + c]);
      return total;
    };
    const double count = static_cast<double>(pixels * width);
    const double mean = sum([](T x) { return static_cast<double>(x); }) / count;
    const double variance = sum([&](T x) { return (x - mean) * (x - mean); }) / count;
    stats.as<T>()[2 * t] = static_cast<T>(mean);
    stats.as<T>()[2 * t + 1] = static_cast<T>(1 / sqrt(variance + norm.eps));
  });
}

// A convolution's kernel, then both.
template <class T, KernelFn Convolve>
void convAddKernel(const KernelArgs& a) {
  Convolve(a);
  addResidual<T>(a, a.in[3]);
}
template <class T, KernelFn Convolve>
void convStatsKernel(const KernelArgs& a) {
  convAddKernel<T, Convolve>(a);
  leaveStats<T>(a, a.paramsAs<ConvStatsParams>().norm);
}
template <class T, KernelFn Convolve>
void upsampleStatsKernel(const KernelArgs& a) {
  Convolve(a);
  leaveStats<T>(a, a.paramsAs<NormAhead>());
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
