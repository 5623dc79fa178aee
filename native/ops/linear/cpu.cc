#include "cpu/gemm_outer.h"
#include "cpu/kernel.h"
#include "ops/linear/linear.h"

namespace infinity::INFINITY_ISA {
namespace {

template <class B>
void runLinear(const KernelArgs& a, const Panels<B>& weights, bool applyGelu) {
  const LinearShape s(a.in, a.out[0]);
  const MatrixRows x = {a.in[0].as<float>(), s.K};
  const MatrixOut y = {a.out[0].as<float>(), s.N};
  const AddBias bias = {a.in[2].as<float>()};
  if (a.in[3]) {
    const AddBiasGatedResidual epilogue = {bias, a.in[3].as<float>(), a.in[4].as<float>(), s.N, s.rowsPerGate};
    product(*a.pool, s.rows, x, weights, y, epilogue);
  } else if (applyGelu) {
    product(*a.pool, s.rows, x, weights, y, AddBiasGelu{bias});
  } else {
    product(*a.pool, s.rows, x, weights, y, bias);
  }
}

// Weights as they lie, [N, K] in f32 or bf16: panels of f32 in scratch.
size_t linearPlan(const KernelArgs& a) { return panelBytes(a.in[0].cols(), a.out[0].cols()); }
void linearKernel(const KernelArgs& a) {
  const int64_t K = a.in[0].cols();
  const Panels<float> panels = {static_cast<float*>(a.scratch), K, a.out[0].cols()};
  if (a.in[1].dtype == DType::bf16) {
    packMatrix(*a.pool, panels, a.in[1].as<uint16_t>(), 1, K);
  } else {
    packMatrix(*a.pool, panels, a.in[1].as<float>(), 1, K);
  }
  runLinear(a, panels, a.paramsAs<LinearParams>().gelu);
}
void linearReferenceKernel(const KernelArgs& a) {
  linearReference(a.in, a.out[0], a.paramsAs<LinearParams>().gelu, [](double x) { return gelu(x); });
}

void linearPackedKernel(const KernelArgs& a) {
  const auto& params = a.paramsAs<LinearPackedParams>();
  const int64_t K = a.in[0].cols(), N = params.columns;
  if (a.in[1].dtype == DType::bf16) {
    runLinear(a, Panels<uint16_t>{a.in[1].as<uint16_t>(), K, N}, params.gelu);
  } else {
    runLinear(a, Panels<float>{a.in[1].as<float>(), K, N}, params.gelu);
  }
}
void linearPackedReferenceKernel(const KernelArgs& a) {
  linearReference(a.in, a.out[0], a.paramsAs<LinearPackedParams>().gelu, [](double x) { return gelu(x); });
}

template <class S>
void packLinearFrom(const KernelArgs& a) {
  const int64_t N = a.in[0].rows(), K = a.in[0].cols();
  const S* w = a.in[0].as<S>();
  if (a.out[0].dtype == DType::bf16) {
    packMatrix(*a.pool, Panels<uint16_t>{a.out[0].as<uint16_t>(), K, N}, w, 1, K);
  } else {
    packMatrix(*a.pool, Panels<float>{a.out[0].as<float>(), K, N}, w, 1, K);
  }
}
void packLinearKernel(const KernelArgs& a) {
  a.in[0].dtype == DType::bf16 ? packLinearFrom<uint16_t>(a) : packLinearFrom<float>(a);
}
// The reference reads packed weights as rows of K: the layout of W itself.
void packLinearReferenceKernel(const KernelArgs& a) {
  for (int64_t i = 0; i < a.in[0].size(); ++i) a.out[0].as<double>()[i] = a.in[0].as<double>()[i];
}

// in: dy [.., N], W [N, K]
size_t linearBackwardInputPlan(const KernelArgs& a) { return panelBytes(a.in[0].cols(), a.out[0].cols()); }
void linearBackwardInputKernel(const KernelArgs& a) {
  const int64_t N = a.in[0].cols(), K = a.out[0].cols();
  const Panels<float> panels = {static_cast<float*>(a.scratch), N, K};
  packMatrix(*a.pool, panels, a.in[1].as<float>(), K, 1);
  product(*a.pool, a.in[0].rows(), MatrixRows{a.in[0].as<float>(), N}, panels, MatrixOut{a.out[0].as<float>(), K},
          AddBias{nullptr});
}
void linearBackwardInputReferenceKernel(const KernelArgs& a) {
  linearBackwardInputReference(a.in[0], a.in[1], a.out[0]);
}

// in: dy [.., N], x [.., K]; out: dW [N, K], db [N]
size_t linearBackwardWeightPlan(const KernelArgs& a) {
  return weightGradientBytes(a.pool->threads(), a.in[0].rows(), a.in[0].cols(), a.in[1].cols());
}
void linearBackwardWeightKernel(const KernelArgs& a) {
  weightGradient(*a.pool, a.in[0].rows(), a.in[0].as<float>(), a.in[0].cols(), a.in[1].as<float>(), a.in[1].cols(),
                 a.out[0].as<float>(), a.out[1].as<float>(), a.scratch);
}
void linearBackwardWeightReferenceKernel(const KernelArgs& a) {
  linearBackwardWeightReference(a.in[0], a.in[1], a.out[0], a.out[1]);
}

// ---- fma_probe

constexpr int kProbeChains = 12;  // hides the latency of the multiply-add on two ports

template <class T>
void fmaProbeKernel(const KernelArgs& a) {
  const uint32_t iterations = a.paramsAs<FmaProbeParams>().iterations;
  a.pool->parallelFor(a.out[0].size(), [&](int64_t tile) {
    const Vec<T> x = splat(a.in[0].as<T>()[tile]);
    Vec<T> sum[kProbeChains];
    for (int i = 0; i < kProbeChains; ++i) sum[i] = splatTo<T>(i);
    for (uint32_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 16
      for (int i = 0; i < kProbeChains; ++i) sum[i] = fma(sum[i], x, x);
    }
    T total = 0;
    for (int i = 0; i < kProbeChains; ++i) total += hsum(sum[i]) / (lanesOf<T> * kProbeChains);
    a.out[0].as<T>()[tile] = total;
  });
}

}  // namespace

INFINITY_KERNEL(linear, linearKernel, linearReferenceKernel, linearPlan);
INFINITY_KERNEL(linear_packed, linearPackedKernel, linearPackedReferenceKernel, nullptr);
INFINITY_KERNEL(pack_linear, packLinearKernel, packLinearReferenceKernel, nullptr);
INFINITY_KERNEL(linear_backward_input, linearBackwardInputKernel, linearBackwardInputReferenceKernel,
                linearBackwardInputPlan);
INFINITY_KERNEL(linear_backward_weight, linearBackwardWeightKernel, linearBackwardWeightReferenceKernel,
                linearBackwardWeightPlan);
INFINITY_KERNEL(fma_probe, fmaProbeKernel<float>, fmaProbeKernel<double>, nullptr);

}  // namespace infinity::INFINITY_ISA
