#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/elementwise/elementwise.h"

namespace infinity::INFINITY_ISA {
namespace {

// ---- maps of one or two tensors of the same shape

template <class T, class F>
void map1(const KernelArgs& a, const F& f) {
  const T* x = a.in[0].as<T>();
  T* y = a.out[0].as<T>();
  const int64_t n = a.out[0].size();
  constexpr int lanes = lanesOf<T>;
  a.pool->parallelFor(tilesFor(n), [&](int64_t tile) {
    const int64_t end = n < (tile + 1) * kElementsPerTile ? n : (tile + 1) * kElementsPerTile;
    int64_t i = tile * kElementsPerTile;
    for (; i + lanes <= end; i += lanes) store(y + i, f(load(x + i)));
    if (i < end) storeTail(y + i, f(loadTail(x + i, static_cast<int>(end - i))), static_cast<int>(end - i));
  });
}

template <class T, class F>
void map2(const KernelArgs& a, const F& f) {
  const T* x0 = a.in[0].as<T>();
  const T* x1 = a.in[1].as<T>();
  T* y = a.out[0].as<T>();
  const int64_t n = a.out[0].size();
  constexpr int lanes = lanesOf<T>;
  a.pool->parallelFor(tilesFor(n), [&](int64_t tile) {
    const int64_t end = n < (tile + 1) * kElementsPerTile ? n : (tile + 1) * kElementsPerTile;
    int64_t i = tile * kElementsPerTile;
    for (; i + lanes <= end; i += lanes) store(y + i, f(load(x0 + i), load(x1 + i)));
    const int rest = static_cast<int>(end - i);
    if (rest > 0) storeTail(y + i, f(loadTail(x0 + i, rest), loadTail(x1 + i, rest)), rest);
  });
}

// ---- broadcasting: rows along the last axis, each operand advancing by 1 or standing still

template <class T, class F>
void broadcast2(const KernelArgs& a, const F& f) {
  const TensorView& out = a.out[0];
  const int64_t n = out.size();
  if (a.in[0].size() == n && a.in[1].size() == n) return map2<T>(a, f);
  int64_t s0[kMaxRank], s1[kMaxRank];
  broadcastStrides(a.in[0], out, s0);
  broadcastStrides(a.in[1], out, s1);
  const int64_t cols = out.cols(), rows = out.rows();
  const int64_t step0 = out.rank ? s0[out.rank - 1] : 0, step1 = out.rank ? s1[out.rank - 1] : 0;
  const int64_t rowsPerTile = cols >= kElementsPerTile ? 1 : kElementsPerTile / cols;
  constexpr int lanes = lanesOf<T>;
  a.pool->parallelFor(tilesFor(rows, rowsPerTile), [&](int64_t tile) {
    const int64_t last = rows < (tile + 1) * rowsPerTile ? rows : (tile + 1) * rowsPerTile;
    for (int64_t row = tile * rowsPerTile; row < last; ++row) {
      const T* x0 = a.in[0].as<T>();
      const T* x1 = a.in[1].as<T>();
      int64_t rest = row;
      for (int axis = static_cast<int>(out.rank) - 2; axis >= 0; --axis) {
        const int64_t index = rest % out.dims[axis];
        rest /= out.dims[axis];
        x0 += index * s0[axis];
        x1 += index * s1[axis];
      }
      T* y = out.as<T>() + row * cols;
      int64_t i = 0;
      if (step0 && step1) {
        for (; i + lanes <= cols; i += lanes) store(y + i, f(load(x0 + i), load(x1 + i)));
      } else if (step0) {
        for (; i + lanes <= cols; i += lanes) store(y + i, f(load(x0 + i), splat(*x1)));
      } else {
        for (; i + lanes <= cols; i += lanes) store(y + i, f(splat(*x0), load(x1 + i)));
      }
      for (; i < cols; ++i) storeTail(y + i, f(splat(x0[i * step0]), splat(x1[i * step1])), 1);
    }
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

}  // namespace

INFINITY_KERNEL(add, addKernel<float>, addKernel<double>, nullptr);
INFINITY_KERNEL(sub, subKernel<float>, subKernel<double>, nullptr);
INFINITY_KERNEL(mul, mulKernel<float>, mulKernel<double>, nullptr);
INFINITY_KERNEL(scale, scaleKernel<float>, scaleKernel<double>, nullptr);
INFINITY_KERNEL(gelu, geluKernel<float>, geluKernel<double>, nullptr);
INFINITY_KERNEL(gelu_backward, geluBackwardKernel<float>, geluBackwardKernel<double>, nullptr);
INFINITY_KERNEL(silu, siluKernel<float>, siluKernel<double>, nullptr);
INFINITY_KERNEL(silu_backward, siluBackwardKernel<float>, siluBackwardKernel<double>, nullptr);

}  // namespace infinity::INFINITY_ISA
