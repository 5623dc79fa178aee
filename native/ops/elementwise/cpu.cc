#include "ops/elementwise/elementwise.h"

#include "cpu/kernel.h"
#include "cpu/simd.h"

namespace infinity::INFINITY_ISA {
namespace {

// ---- maps of tensors of one shape

template <class T, class F>
void forTiles(const KernelArgs& a, const F& f) {
  const int64_t n = a.out[0].size();
  constexpr int lanes = lanesOf<T>;
  a.pool->parallelFor(tilesFor(n), [&](int64_t tile) {
    const int64_t end = n < (tile + 1) * kElementsPerTile ? n : (tile + 1) * kElementsPerTile;
    int64_t i = tile * kElementsPerTile;
    for (; i + lanes <= end; i += lanes) f(i, lanes);
    if (i < end) f(i, static_cast<int>(end - i));
  });
}

template <class T, class F>
void map1(const KernelArgs& a, const F& f) {
  const T* x = a.in[0].as<T>();
  T* y = a.out[0].as<T>();
  forTiles<T>(a, [&](int64_t i, int n) { storeUpTo(y + i, f(loadUpTo(x + i, n)), n); });
}

template <class T, class F>
void map2(const KernelArgs& a, const F& f) {
  const T *x0 = a.in[0].as<T>(), *x1 = a.in[1].as<T>();
  T* y = a.out[0].as<T>();
  forTiles<T>(a, [&](int64_t i, int n) { storeUpTo(y + i, f(loadUpTo(x0 + i, n), loadUpTo(x1 + i, n)), n); });
}

// ---- broadcasting: rows along the last axis of the walk, each operand advancing by 1 or standing still

template <class T, class F>
void forRows(const KernelArgs& a, int64_t cols, const F& f) {
  const int64_t rows = a.out[0].size() / cols;
  const int64_t rowsPerTile = cols >= kElementsPerTile ? 1 : kElementsPerTile / cols;
  const int64_t pieces = tilesFor(cols, kElementsPerTile);  // of one row, when a row is longer than a tile
  a.pool->parallelFor(tilesFor(rows, rowsPerTile) * pieces, [&](int64_t tile) {
    const int64_t first = tile / pieces * rowsPerTile, begin = tile % pieces * kElementsPerTile;
    const int64_t last = rows < first + rowsPerTile ? rows : first + rowsPerTile;
    const int64_t end = cols < begin + kElementsPerTile ? cols : begin + kElementsPerTile;
    for (int64_t row = first; row < last; ++row) f(row, begin, end);
  });
}

template <class T, class F>
void broadcast2(const KernelArgs& a, const F& f) {
  const TensorView& out = a.out[0];
  if (a.in[0].size() == out.size() && a.in[1].size() == out.size()) return map2<T>(a, f);
  const BroadcastWalk<2> walk(a.in, out);
  const int64_t cols = walk.cols(), step0 = walk.stride[0][walk.rank - 1], step1 = walk.stride[1][walk.rank - 1];
  constexpr int lanes = lanesOf<T>;
  forRows<T>(a, cols, [&](int64_t row, int64_t begin, int64_t end) {
    const T* x0 = a.in[0].as<T>() + walk.offset(0, row);
    const T* x1 = a.in[1].as<T>() + walk.offset(1, row);
    T* y = out.as<T>() + row * cols;
    int64_t i = begin;
    if (step0 && step1) {
      for (; i + lanes <= end; i += lanes) store(y + i, f(load(x0 + i), load(x1 + i)));
    } else if (step0) {
      for (; i + lanes <= end; i += lanes) store(y + i, f(load(x0 + i), splat(*x1)));
    } else {
      for (; i + lanes <= end; i += lanes) store(y + i, f(splat(*x0), load(x1 + i)));
    }
    const int rest = static_cast<int>(end - i);
    if (rest <= 0) return;
    const Vec<T> v0 = step0 ? loadTail(x0 + i, rest) : splat(*x0), v1 = step1 ? loadTail(x1 + i, rest) : splat(*x1);
    storeTail(y + i, f(v0, v1), rest);
  });
}

template <class T>
void broadcastToKernel(const KernelArgs& a) {
  const TensorView& out = a.out[0];
  const BroadcastWalk<1> walk(a.in, out);
  const int64_t cols = walk.cols(), step = walk.stride[0][walk.rank - 1];
  forRows<T>(a, cols, [&](int64_t row, int64_t begin, int64_t end) {
    const T* x = a.in[0].as<T>() + walk.offset(0, row);
    T* y = out.as<T>() + row * cols;
    if (step) {
      __builtin_memcpy(y + begin, x + begin, static_cast<size_t>(end - begin) * sizeof(T));
      return;
    }
    const Vec<T> v = splat(*x);
    int64_t i = begin;
    for (; i + lanesOf<T> <= end; i += lanesOf<T>) store(y + i, v);
    if (i < end) storeTail(y + i, v, static_cast<int>(end - i));
  });
}

template <class T>
void addKernel(const KernelArgs& a) {
  broadcast2<T>(a, [](auto x, auto y) { return x + y; });
}
template <class T>
void subKernel(const KernelArgs& a) {
  broadcast2<T>(a, [](auto x, auto y) { return x - y; });
}
template <class T>
void mulKernel(const KernelArgs& a) {
  broadcast2<T>(a, [](auto x, auto y) { return x * y; });
}
template <class T>
void scaleKernel(const KernelArgs& a) {
  const Vec<T> factor = splatTo<T>(a.paramsAs<ScaleParams>().factor);
  map1<T>(a, [factor](auto x) { return x * factor; });
}
template <class T>
void addScalarKernel(const KernelArgs& a) {
  const Vec<T> value = splatTo<T>(a.paramsAs<AddScalarParams>().value);
  map1<T>(a, [value](auto x) { return x + value; });
}
// Comparisons are written so that NaN passes through.
template <class T>
void clampKernel(const KernelArgs& a) {
  const Vec<T> lo = splatTo<T>(a.paramsAs<ClampParams>().lo), hi = splatTo<T>(a.paramsAs<ClampParams>().hi);
  map1<T>(a, [lo, hi](auto x) {
    const auto raised = x < lo ? lo : x;
    return raised > hi ? hi : raised;
  });
}
template <class T>
void clampBackwardKernel(const KernelArgs& a) {
  const Vec<T> lo = splatTo<T>(a.paramsAs<ClampParams>().lo), hi = splatTo<T>(a.paramsAs<ClampParams>().hi);
  map2<T>(a, [lo, hi](auto gy, auto x) {
    const auto zero = splatTo<T>(0);
    const auto above = x > hi ? zero : gy;
    return x < lo ? zero : above;
  });
}
template <class T>
void expKernel(const KernelArgs& a) {
  map1<T>(a, [](auto x) { return exp(x); });
}
template <class T>
void absKernel(const KernelArgs& a) {
  map1<T>(a, [](auto x) { return abs(x); });
}
// The gradient at 0 is 0.
template <class T>
void absBackwardKernel(const KernelArgs& a) {
  map2<T>(a, [](auto gy, auto x) {
    const auto zero = splatTo<T>(0);
    const auto low = x < zero ? -gy : zero;
    return x > zero ? gy : low;
  });
}
template <class T>
void squareKernel(const KernelArgs& a) {
  map1<T>(a, [](auto x) { return x * x; });
}
template <class T>
void squareBackwardKernel(const KernelArgs& a) {
  map2<T>(a, [](auto gy, auto x) { return gy * (x + x); });
}
template <class T>
void sigmoidKernel(const KernelArgs& a) {
  map1<T>(a, [](auto x) { return sigmoid(x); });
}
// From the output: y(1 - y).
template <class T>
void sigmoidBackwardKernel(const KernelArgs& a) {
  map2<T>(a, [](auto gy, auto y) { return gy * (y * (1 - y)); });
}
template <class T>
void geluKernel(const KernelArgs& a) {
  map1<T>(a, [](auto x) { return gelu(x); });
}
template <class T>
void geluBackwardKernel(const KernelArgs& a) {
  map2<T>(a, [](auto gy, auto x) { return gy * geluGrad(x); });
}
template <class T>
void siluKernel(const KernelArgs& a) {
  map1<T>(a, [](auto x) { return silu(x); });
}
template <class T>
void siluBackwardKernel(const KernelArgs& a) {
  map2<T>(a, [](auto gy, auto x) { return gy * siluGrad(x); });
}
template <class T>
void swigluKernel(const KernelArgs& a) {
  map2<T>(a, [](auto gate, auto x) { return silu(gate) * x; });
}
// in: gy, gate, x; out: the gradients of gate and x.
template <class T>
void swigluBackwardKernel(const KernelArgs& a) {
  const T *gy = a.in[0].as<T>(), *gate = a.in[1].as<T>(), *x = a.in[2].as<T>();
  T *gGate = a.out[0].as<T>(), *gx = a.out[1].as<T>();
  forTiles<T>(a, [&](int64_t i, int n) {
    const Vec<T> g = loadUpTo(gy + i, n), z = loadUpTo(gate + i, n);
    storeUpTo(gGate + i, g * loadUpTo(x + i, n) * siluGrad(z), n);
    storeUpTo(gx + i, g * silu(z), n);
  });
}

}  // namespace

INFINITY_KERNEL(add, addKernel<float>, addKernel<double>, nullptr);
INFINITY_KERNEL(sub, subKernel<float>, subKernel<double>, nullptr);
INFINITY_KERNEL(mul, mulKernel<float>, mulKernel<double>, nullptr);
INFINITY_KERNEL(broadcast_to, broadcastToKernel<float>, broadcastToKernel<double>, nullptr);
INFINITY_KERNEL(scale, scaleKernel<float>, scaleKernel<double>, nullptr);
INFINITY_KERNEL(add_scalar, addScalarKernel<float>, addScalarKernel<double>, nullptr);
INFINITY_KERNEL(clamp, clampKernel<float>, clampKernel<double>, nullptr);
INFINITY_KERNEL(clamp_backward, clampBackwardKernel<float>, clampBackwardKernel<double>, nullptr);
INFINITY_KERNEL(exp, expKernel<float>, expKernel<double>, nullptr);
INFINITY_KERNEL(abs, absKernel<float>, absKernel<double>, nullptr);
INFINITY_KERNEL(abs_backward, absBackwardKernel<float>, absBackwardKernel<double>, nullptr);
INFINITY_KERNEL(square, squareKernel<float>, squareKernel<double>, nullptr);
INFINITY_KERNEL(square_backward, squareBackwardKernel<float>, squareBackwardKernel<double>, nullptr);
INFINITY_KERNEL(sigmoid, sigmoidKernel<float>, sigmoidKernel<double>, nullptr);
INFINITY_KERNEL(sigmoid_backward, sigmoidBackwardKernel<float>, sigmoidBackwardKernel<double>, nullptr);
INFINITY_KERNEL(gelu, geluKernel<float>, geluKernel<double>, nullptr);
INFINITY_KERNEL(gelu_backward, geluBackwardKernel<float>, geluBackwardKernel<double>, nullptr);
INFINITY_KERNEL(silu, siluKernel<float>, siluKernel<double>, nullptr);
INFINITY_KERNEL(silu_backward, siluBackwardKernel<float>, siluBackwardKernel<double>, nullptr);
INFINITY_KERNEL(swiglu, swigluKernel<float>, swigluKernel<double>, nullptr);
INFINITY_KERNEL(swiglu_backward, swigluBackwardKernel<float>, swigluBackwardKernel<double>, nullptr);

}  // namespace infinity::INFINITY_ISA
