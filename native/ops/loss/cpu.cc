#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/reduce/chunks.h"

namespace infinity::INFINITY_ISA {
namespace {

size_t meanPlan(const KernelArgs& a) { return chunkSumBytes(a.in[0].size()); }

template <class T, class F>
void meanOf(const KernelArgs& a, const F& term) {
  const T *x = a.in[0].as<T>(), *y = a.in[1].as<T>();
  const int64_t n = a.in[0].size();
  const double sum =
      chunkSum(a, n, [&](int64_t i) { return term(static_cast<double>(x[i]) - static_cast<double>(y[i])); });
  *a.out[0].as<T>() = static_cast<T>(sum / static_cast<double>(n));
}

template <class T>
void l1LossKernel(const KernelArgs& a) {
  meanOf<T>(a, [](double d) { return __builtin_fabs(d); });
}
template <class T>
void l2LossKernel(const KernelArgs& a) {
  meanOf<T>(a, [](double d) { return d * d; });
}

// in: cotangent [], x, y; out: the gradient of x (that of y is its negative), `slope` being that of one term.
template <class T, class F>
void meanBackward(const KernelArgs& a, const F& slope) {
  const T *x = a.in[1].as<T>(), *y = a.in[2].as<T>();
  T* out = a.out[0].as<T>();
  const int64_t n = a.in[1].size();
  const T share = static_cast<T>(static_cast<double>(*a.in[0].as<T>()) / static_cast<double>(n));
  a.pool->parallelFor(tilesFor(n), [&](int64_t tile) {
    const int64_t end = n < (tile + 1) * kElementsPerTile ? n : (tile + 1) * kElementsPerTile;
    for (int64_t i = tile * kElementsPerTile; i < end; ++i) out[i] = slope(x[i] - y[i], share);
  });
}

// The gradient at 0 is 0.
template <class T>
void l1LossBackwardKernel(const KernelArgs& a) {
  meanBackward<T>(a, [](T d, T share) { return d > 0 ? share : d < 0 ? -share : T(0); });
}
template <class T>
void l2LossBackwardKernel(const KernelArgs& a) {
  meanBackward<T>(a, [](T d, T share) { return 2 * d * share; });
}

}  // namespace

INFINITY_KERNEL(l1_loss, l1LossKernel<float>, l1LossKernel<double>, meanPlan);
INFINITY_KERNEL(l1_loss_backward, l1LossBackwardKernel<float>, l1LossBackwardKernel<double>, nullptr);
INFINITY_KERNEL(l2_loss, l2LossKernel<float>, l2LossKernel<double>, meanPlan);
INFINITY_KERNEL(l2_loss_backward, l2LossBackwardKernel<float>, l2LossBackwardKernel<double>, nullptr);

}  // namespace infinity::INFINITY_ISA
