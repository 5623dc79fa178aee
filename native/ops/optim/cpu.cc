#include "ops/optim/optim.h"

#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/reduce/chunks.h"

namespace infinity::INFINITY_ISA {
namespace {

// Calls f(i, n) for n ≤ lanes elements from i.
template <class T, class F>
void forVectors(const KernelArgs& a, int64_t size, const F& f) {
  constexpr int lanes = lanesOf<T>;
  a.pool->parallelFor(tilesFor(size), [&](int64_t tile) {
    const int64_t end = size < (tile + 1) * kElementsPerTile ? size : (tile + 1) * kElementsPerTile;
    int64_t i = tile * kElementsPerTile;
    for (; i + lanes <= end; i += lanes) f(i, lanes);
    if (i < end) f(i, static_cast<int>(end - i));
  });
}

// in: gradient, factor [] or none; out, in place: parameter, first and second moment. Decoupled weight decay comes
// first, as in torch.optim.AdamW.
template <class T>
void adamwKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<AdamWParams>();
  const T factor = a.in[1] ? *a.in[1].as<T>() : T(1);
  const T* gradient = a.in[0].as<T>();
  T *parameter = a.out[0].as<T>(), *first = a.out[1].as<T>(), *second = a.out[2].as<T>();
  forVectors<T>(a, a.in[0].size(), [&](int64_t i, int n) {
    const Vec<T> g = loadUpTo(gradient + i, n) * splat(factor);
    const Vec<T> m = fma(splatTo<T>(p.oneMinusBeta1), g, splatTo<T>(p.beta1) * loadUpTo(first + i, n));
    const Vec<T> v = fma(splatTo<T>(p.oneMinusBeta2) * g, g, splatTo<T>(p.beta2) * loadUpTo(second + i, n));
    const Vec<T> scale = sqrt(v) / splatTo<T>(p.rootCorrection) + splatTo<T>(p.eps);
    storeUpTo(first + i, m, n);
    storeUpTo(second + i, v, n);
    storeUpTo(parameter + i, loadUpTo(parameter + i, n) * splatTo<T>(p.keep) - splatTo<T>(p.stepSize) * (m / scale), n);
  });
}

// in: parameter; out, in place: its moving average.
template <class T>
void emaKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<EmaParams>();
  const T* x = a.in[0].as<T>();
  T* shadow = a.out[0].as<T>();
  forVectors<T>(a, a.in[0].size(), [&](int64_t i, int n) {
    storeUpTo(shadow + i,
              fma(splatTo<T>(p.oneMinusDecay), loadUpTo(x + i, n), splatTo<T>(p.decay) * loadUpTo(shadow + i, n)), n);
  });
}

size_t sumSquaresPlan(const KernelArgs& a) { return chunkSumBytes(a.in[0].size()); }

template <class T>
void sumSquaresKernel(const KernelArgs& a) {
  const T* x = a.in[0].as<T>();
  *a.out[0].as<T>() = static_cast<T>(chunkSum(a, a.in[0].size(), [x](int64_t i) {
    const double v = static_cast<double>(x[i]);
    return v * v;
  }));
}

// in: sums of squares [n]; out: the norm of all of them together, and min(1, maxNorm / (norm + 1e-6)) as in
// torch.nn.utils.clip_grad_norm_. A NaN stays one.
template <class T>
void clipFactorKernel(const KernelArgs& a) {
  double sum = 0;
  for (int64_t i = 0; i < a.in[0].size(); ++i) sum += static_cast<double>(a.in[0].as<T>()[i]);
  const double norm = __builtin_sqrt(sum), factor = a.paramsAs<ClipFactorParams>().maxNorm / (norm + 1e-6);
  *a.out[0].as<T>() = static_cast<T>(norm);
  *a.out[1].as<T>() = static_cast<T>(factor > 1 ? 1 : factor);
}

}  // namespace

INFINITY_KERNEL(adamw, adamwKernel<float>, adamwKernel<double>, nullptr);
INFINITY_KERNEL(ema, emaKernel<float>, emaKernel<double>, nullptr);
INFINITY_KERNEL(sum_squares, sumSquaresKernel<float>, sumSquaresKernel<double>, sumSquaresPlan);
INFINITY_KERNEL(clip_factor, clipFactorKernel<float>, clipFactorKernel<double>, nullptr);

}  // namespace infinity::INFINITY_ISA
