// The definition in plain loops. The processor takes layers and norms one by one.
#include "ops/linear_norm/linear_norm.h"

#include <cmath>

#include "cpu/kernel.h"

namespace infinity::INFINITY_ISA {
namespace {

template <class T>
double dot(const TensorView& x, int64_t row, const TensorView& w, int64_t n) {
  const int64_t K = x.cols();
  double sum = 0;
  for (int64_t k = 0; k < K; ++k) sum += static_cast<double>(x.as<T>()[row * K + k]) * w.as<T>()[n * K + k];
  return sum;
}

template <class T>
void linearMeasuredKernel(const KernelArgs& a) {
  const TensorView &bias = a.in[2], &residual = a.in[3], &gate = a.in[4], &affine = a.in[5];
  const int64_t rows = a.out[0].rows(), N = a.out[0].cols(), runs = normRuns(N);
  const int64_t perGate = rowsPerGroup(rows, gate, N), perScale = rowsPerGroup(rows, affine, 2 * N);
  a.pool->parallelFor(rows, [&](int64_t r) {
    for (int64_t run = 0; run < runs; ++run) {
      const int64_t first = run * kNormRun, end = first + kNormRun < N ? first + kNormRun : N;
      double sums[kNormRun], mean = 0, deviation = 0;
      for (int64_t n = first; n < end; ++n) {
        double sum = dot<T>(a.in[0], r, a.in[1], n);
        if (bias) sum += bias.as<T>()[n];
        if (gate) sum *= gate.as<T>()[r / perGate * N + n];
        sums[n - first] = sum += residual.as<T>()[r * N + n];
        a.out[0].as<T>()[r * N + n] = static_cast<T>(sum);
        a.out[1].as<T>()[r * N + n] = static_cast<T>(sum * affine.as<T>()[r / perScale * 2 * N + n]);
        mean += sum / static_cast<double>(end - first);
      }
      for (int64_t n = 0; n < end - first; ++n) deviation += (sums[n] - mean) * (sums[n] - mean);
      T* const moments = a.out[2].as<T>() + (r * runs + run) * 2;
      moments[0] = static_cast<T>(mean);
      moments[1] = static_cast<T>(deviation);
    }
  });
}

template <class T>
void linearNormedKernel(const KernelArgs& a) {
  const auto& params = a.paramsAs<LinearNormedParams>();
  const TensorView &bias = a.in[2], &projected = a.in[4], &y = a.out[0];
  const int64_t rows = y.rows(), N = y.cols(), K = a.in[0].cols(), runs = normRuns(K);
  const int64_t perGroup = rowsPerGroup(rows, projected, 2 * N);
  a.pool->parallelFor(rows, [&](int64_t r) {
    const T* const moments = a.in[3].as<T>() + r * runs * 2;
    const auto overRuns = [&](const auto& term) {
      double sum = 0;
      for (int64_t i = 0; i < runs; ++i) {
        const int64_t left = K - i * kNormRun;
        sum += term(static_cast<double>(left < kNormRun ? left : kNormRun), moments[2 * i], moments[2 * i + 1]);
      }
      return sum / static_cast<double>(K);
    };
    const double mean = params.centred ? overRuns([](double n, double m, double) { return n * m; }) : 0;
    const double variance = overRuns([&](double n, double m, double d) { return d + n * (m - mean) * (m - mean); });
    const double rstd = 1 / std::sqrt(variance + params.eps);
    const T* const scales = projected.as<T>() + r / perGroup * 2 * N;
    for (int64_t n = 0; n < N; ++n) {
      double sum = rstd * (dot<T>(a.in[0], r, a.in[1], n) - mean * scales[n]) + scales[N + n];
      if (bias) sum += bias.as<T>()[n];
      if (params.gelu) sum = 0.5 * sum * (1 + std::tanh(0.7978845608028654 * (sum + 0.044715 * sum * sum * sum)));
      y.as<T>()[r * N + n] = static_cast<T>(sum);
    }
  });
}

}  // namespace

INFINITY_KERNEL(linear_measured, linearMeasuredKernel<float>, linearMeasuredKernel<double>, nullptr);
INFINITY_KERNEL(linear_normed, linearNormedKernel<float>, linearNormedKernel<double>, nullptr);

}  // namespace infinity::INFINITY_ISA
