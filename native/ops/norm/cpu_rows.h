// Kernels over rows: layer_norm, ada_norm, rms_norm, gated_add and their gradients.
#pragma once
#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/norm/norm.h"

namespace infinity::INFINITY_ISA {
namespace {

// Calls f(i, lanes) for whole vectors of a row and f(i, rest) for what is left.
template <class T, class F>
INFINITY_INLINE void forRow(int64_t n, const F& f) {
  constexpr int lanes = lanesOf<T>;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) f(i, lanes);
  if (i < n) f(i, static_cast<int>(n - i));
}

// The factor of xhat: the weight, or 1 + the modulation.
template <class T, RowNorm kind>
INFINITY_INLINE Vec<T> gainAt(const T* gain, int64_t i, int n) {
  const Vec<T> one = splatTo<T>(1);
  if (!gain) return one;
  return kind == RowNorm::ada ? one + loadUpTo(gain + i, n) : loadUpTo(gain + i, n);
}

template <class T, RowNorm kind>
void normRow(const T* x, const T* gain, const T* shift, T* y, T* stats, int64_t n, T eps) {
  Vec<T> sum = {};
  T mean = 0;
  if (kind != RowNorm::rms) {
    forRow<T>(n, [&](int64_t i, int m) { sum += loadUpTo(x + i, m); });
    mean = hsum(sum) / static_cast<T>(n);
  }
  const Vec<T> centre = splat(mean);
  Vec<T> squares = {};
  forRow<T>(n, [&](int64_t i, int m) {
    const Vec<T> d = keepFirst(loadUpTo(x + i, m) - centre, m);
    squares = fma(d, d, squares);
  });
  const T variance = hsum(squares) / static_cast<T>(n);
  const T rstd = 1 / sqrt(variance + eps);
  const Vec<T> factor = splat(rstd);
  forRow<T>(n, [&](int64_t i, int m) {
    const Vec<T> normal = (loadUpTo(x + i, m) - centre) * factor;
    const Vec<T> g = gainAt<T, kind>(gain, i, m);
    storeUpTo(y + i, shift ? fma(normal, g, loadUpTo(shift + i, m)) : normal * g, m);
  });
  stats[0] = mean;
  stats[1] = rstd;
}

// Inputs x, gain, shift; outputs y and the statistics.
template <class T, RowNorm kind>
void rowNormKernel(const KernelArgs& a) {
  const TensorView& x = a.in[0];
  const TensorView none, &shift = kind == RowNorm::rms ? none : a.in[2];
  const int64_t cols = x.cols(), rows = x.rows();
  const RowSharing share(x, a.in[1]);
  const T eps = static_cast<T>(a.paramsAs<NormParams>().eps);
  const int64_t perTile = cols >= kElementsPerTile ? 1 : kElementsPerTile / cols;
  a.pool->parallelFor(tilesFor(rows, perTile), [&](int64_t tile) {
    const int64_t end = rows < (tile + 1) * perTile ? rows : (tile + 1) * perTile;
    for (int64_t row = tile * perTile; row < end; ++row) {
      const int64_t at = row / share.rows * cols;
      normRow<T, kind>(x.as<T>() + row * cols, a.in[1] ? a.in[1].as<T>() + at : nullptr,
                       shift ? shift.as<T>() + at : nullptr, a.out[0].as<T>() + row * cols, a.out[1].as<T>() + row * 2,
                       cols, eps);
    }
  });
}

template <class T, RowNorm kind>
void normRowBackward(const T* gy, const T* x, const T* stats, const T* gain, T* gx, T* ggain, T* gshift, int64_t n) {
  const Vec<T> mean = splat(stats[0]), rstd = splat(stats[1]);
  Vec<T> plain = {}, along = {};
  forRow<T>(n, [&](int64_t i, int m) {
    const Vec<T> g = loadUpTo(gy + i, m), normal = (loadUpTo(x + i, m) - mean) * rstd;
    const Vec<T> scaled = g * gainAt<T, kind>(gain, i, m);  // zero beyond the row, as g is
    plain += scaled;
    along = fma(scaled, normal, along);
    storeUpTo(ggain + i, fma(g, normal, loadUpTo(ggain + i, m)), m);
    if (kind != RowNorm::rms) storeUpTo(gshift + i, loadUpTo(gshift + i, m) + g, m);
  });
  const Vec<T> offset = splat(kind == RowNorm::rms ? T(0) : hsum(plain) / static_cast<T>(n));
  const Vec<T> slope = splat(hsum(along) / static_cast<T>(n));
  forRow<T>(n, [&](int64_t i, int m) {
    const Vec<T> normal = (loadUpTo(x + i, m) - mean) * rstd;
    const Vec<T> scaled = loadUpTo(gy + i, m) * gainAt<T, kind>(gain, i, m);
    storeUpTo(gx + i, rstd * fma(-normal, slope, scaled - offset), m);
  });
}

// Adds up partial[group][run][...width] over the runs, in their order, into out[group][0..cols) taken from `from` on.
template <class T>
void sumRuns(const KernelArgs& a, const RowSharing& share, const T* partial, int64_t width, int64_t from, int64_t cols,
             T* out) {
  a.pool->parallelFor(share.groups, [&](int64_t group) {
    T* total = out + group * cols;
    const T* part = partial + group * share.runs * width + from;
    __builtin_memcpy(total, part, static_cast<size_t>(cols) * sizeof(T));
    for (int64_t run = 1; run < share.runs; ++run) {
      forRow<T>(cols, [&](int64_t i, int m) {
        storeUpTo(total + i, loadUpTo(total + i, m) + loadUpTo(part + run * width + i, m), m);
      });
    }
  });
}

// Inputs gy, x, stats, gain; outputs gx, the gradient of the gain and (but for rms) of the shift.
template <class T, RowNorm kind>
void rowNormBackwardKernel(const KernelArgs& a) {
  const TensorView& x = a.in[1];
  const int64_t cols = x.cols(), width = kind == RowNorm::rms ? cols : 2 * cols;
  const RowSharing share(x, a.in[3]);
  T* scratch = static_cast<T*>(a.scratch);
  a.pool->parallelFor(share.groups * share.runs, [&](int64_t tile) {
    const int64_t group = tile / share.runs, first = tile % share.runs * kRowsPerRun;
    const int64_t last = first + kRowsPerRun < share.rows ? first + kRowsPerRun : share.rows;
    T* partial = scratch + tile * width;
    __builtin_memset(partial, 0, static_cast<size_t>(width) * sizeof(T));
    for (int64_t row = group * share.rows + first; row < group * share.rows + last; ++row) {
      normRowBackward<T, kind>(a.in[0].as<T>() + row * cols, x.as<T>() + row * cols, a.in[2].as<T>() + row * 2,
                               a.in[3] ? a.in[3].as<T>() + group * cols : nullptr, a.out[0].as<T>() + row * cols,
                               partial, partial + cols, cols);
    }
  });
  sumRuns(a, share, scratch, width, 0, cols, a.out[1].as<T>());
  if (kind != RowNorm::rms) sumRuns(a, share, scratch, width, cols, cols, a.out[2].as<T>());
}

size_t rowNormBackwardPlan(const KernelArgs& a) {
  const RowSharing share(a.in[1], a.in[3]);
  return static_cast<size_t>(share.groups * share.runs * a.in[1].cols() * 2) * dtypeBytes(a.in[1].dtype);
}

// x + y·gate, one gate row a sample.
template <class T>
void gatedAddKernel(const KernelArgs& a) {
  const TensorView& x = a.in[0];
  const int64_t cols = x.cols(), rows = x.rows();
  const RowSharing share(x, a.in[2]);
  const int64_t perTile = cols >= kElementsPerTile ? 1 : kElementsPerTile / cols;
  a.pool->parallelFor(tilesFor(rows, perTile), [&](int64_t tile) {
    const int64_t end = rows < (tile + 1) * perTile ? rows : (tile + 1) * perTile;
    for (int64_t row = tile * perTile; row < end; ++row) {
      const T *px = x.as<T>() + row * cols, *py = a.in[1].as<T>() + row * cols;
      const T* gate = a.in[2].as<T>() + row / share.rows * cols;
      T* out = a.out[0].as<T>() + row * cols;
      forRow<T>(cols, [&](int64_t i, int m) {
        storeUpTo(out + i, fma(loadUpTo(py + i, m), loadUpTo(gate + i, m), loadUpTo(px + i, m)), m);
      });
    }
  });
}

// Inputs gradient of the sum, y, gate; outputs gy and the gradient of the gate.
template <class T>
void gatedAddBackwardKernel(const KernelArgs& a) {
  const TensorView& g = a.in[0];
  const int64_t cols = g.cols();
  const RowSharing share(g, a.in[2]);
  T* scratch = static_cast<T*>(a.scratch);
  a.pool->parallelFor(share.groups * share.runs, [&](int64_t tile) {
    const int64_t group = tile / share.runs, first = tile % share.runs * kRowsPerRun;
    const int64_t last = first + kRowsPerRun < share.rows ? first + kRowsPerRun : share.rows;
    const T* gate = a.in[2].as<T>() + group * cols;
    T* partial = scratch + tile * cols;
    __builtin_memset(partial, 0, static_cast<size_t>(cols) * sizeof(T));
    for (int64_t row = group * share.rows + first; row < group * share.rows + last; ++row) {
      const T *pg = g.as<T>() + row * cols, *py = a.in[1].as<T>() + row * cols;
      T* gy = a.out[0].as<T>() + row * cols;
      forRow<T>(cols, [&](int64_t i, int m) {
        const Vec<T> v = loadUpTo(pg + i, m);
        storeUpTo(gy + i, v * loadUpTo(gate + i, m), m);
        storeUpTo(partial + i, fma(v, loadUpTo(py + i, m), loadUpTo(partial + i, m)), m);
      });
    }
  });
  sumRuns(a, share, scratch, cols, 0, cols, a.out[1].as<T>());
}

size_t gatedAddBackwardPlan(const KernelArgs& a) {
  const RowSharing share(a.in[0], a.in[2]);
  return static_cast<size_t>(share.groups * share.runs * a.in[0].cols()) * dtypeBytes(a.in[0].dtype);
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
