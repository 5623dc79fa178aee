#include "ops/optim/optim.h"

#include "cpu/kernel.h"
#include "cpu/simd.h"

namespace infinity::INFINITY_ISA {
namespace {

// Calls fn(i, n) for runs of at most one vector; n < lanes only at a tile's end.
template <class T, class F>
void forVectors(const KernelArgs& a, int64_t size, const F& fn) {
  constexpr int lanes = lanesOf<T>;
  a.pool->parallelFor(tilesFor(size), [&](int64_t tile) {
    const int64_t end = size < (tile + 1) * kElementsPerTile ? size : (tile + 1) * kElementsPerTile;
    for (int64_t i = tile * kElementsPerTile; i < end; i += lanes) {
      const int64_t rest = end - i;
      fn(i, rest < lanes ? static_cast<int>(rest) : lanes);
    }
  });
}

// One pass over the weights: clip, both moments, decay and step.
template <class T>
void adamwKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<AdamwParams>();
  const T* grad = a.in[0].as<T>();
  const Vec<T> clip = splat(*a.in[1].as<T>());
  T *weight = a.out[0].as<T>(), *m = a.out[1].as<T>(), *v = a.out[2].as<T>();
  const Vec<T> beta1 = splatTo<T>(p.beta1), rest1 = splatTo<T>(1 - T(p.beta1));
  const Vec<T> beta2 = splatTo<T>(p.beta2), rest2 = splatTo<T>(1 - T(p.beta2));
  const Vec<T> keep = splatTo<T>(1 - T(p.lr) * T(p.weightDecay));
  const Vec<T> rate = splatTo<T>(T(p.lr) / T(p.correction1)), inverse = splatTo<T>(1 / T(p.correction2));
  const Vec<T> eps = splatTo<T>(p.eps);
  forVectors<T>(a, a.out[0].size(), [&](int64_t i, int n) {
    const Vec<T> g = loadTail(grad + i, n) * clip;
    const Vec<T> m1 = fma(beta1, loadTail(m + i, n), rest1 * g);
    const Vec<T> v1 = fma(beta2, loadTail(v + i, n), rest2 * g * g);
    const Vec<T> w = loadTail(weight + i, n) * keep - rate * m1 / fma(sqrt(v1), inverse, eps);
    storeTail(m + i, m1, n);
    storeTail(v + i, v1, n);
    storeTail(weight + i, w, n);
  });
}

template <class T>
void emaKernel(const KernelArgs& a) {
  const T* weight = a.in[0].as<T>();
  T* average = a.out[0].as<T>();
  const Vec<T> rest = splatTo<T>(1 - T(a.paramsAs<EmaParams>().decay));
  forVectors<T>(a, a.out[0].size(), [&](int64_t i, int n) {
    const Vec<T> s = loadTail(average + i, n);
    storeTail(average + i, fma(rest, loadTail(weight + i, n) - s, s), n);
  });
}

size_t sumSquaresPlan(const KernelArgs& a) { return static_cast<size_t>(tilesFor(a.in[0].size())) * sizeof(double); }

// One partial sum a tile of fixed size, added up in double in the order of the tiles.
template <class T>
void sumSquaresKernel(const KernelArgs& a) {
  const T* x = a.in[0].as<T>();
  const int64_t size = a.in[0].size(), tiles = tilesFor(size);
  auto* partial = static_cast<double*>(a.scratch);
  constexpr int lanes = lanesOf<T>;
  a.pool->parallelFor(tiles, [&](int64_t tile) {
    const int64_t end = size < (tile + 1) * kElementsPerTile ? size : (tile + 1) * kElementsPerTile;
    Vec<T> s = splatTo<T>(0);
    for (int64_t i = tile * kElementsPerTile; i < end; i += lanes) {
      const int64_t rest = end - i;
      const Vec<T> v = loadTail(x + i, rest < lanes ? static_cast<int>(rest) : lanes);
      s = fma(v, v, s);
    }
    partial[tile] = hsum(s);
  });
  double total = 0;
  for (int64_t t = 0; t < tiles; ++t) total += partial[t];
  *a.out[0].as<T>() = static_cast<T>(total);
}

template <class T>
void clipFactorKernel(const KernelArgs& a) {
  const T* sums = a.in[0].as<T>();
  double total = 0;
  for (int64_t i = 0; i < a.in[0].size(); ++i) total += sums[i];
  const double norm = __builtin_sqrt(total);
  const double factor = a.paramsAs<ClipFactorParams>().maxNorm / (norm + kClipEps);
  *a.out[0].as<T>() = static_cast<T>(norm);
  *a.out[1].as<T>() = static_cast<T>(factor < 1 ? factor : 1);
}

}  // namespace

INFINITY_KERNEL(adamw, adamwKernel<float>, adamwKernel<double>, nullptr);
INFINITY_KERNEL(ema, emaKernel<float>, emaKernel<double>, nullptr);
INFINITY_KERNEL(sum_squares, sumSquaresKernel<float>, sumSquaresKernel<double>, sumSquaresPlan);
INFINITY_KERNEL(clip_factor, clipFactorKernel<float>, clipFactorKernel<double>, nullptr);

}  // namespace infinity::INFINITY_ISA
