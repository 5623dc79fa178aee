#include "cpu/conv.h"

#include "cpu/kernel.h"
#include "ops/conv/conv.h"

namespace infinity::INFINITY_ISA {
namespace {

constexpr ConvParams kThreeByThree = {3, 3, 1, 1, 1};

Phase forwardPhase(const ConvParams& p) {
  return combine(forwardAxis(p.kh, p.padTop), forwardAxis(p.kw, p.padLeft), p.kw);
}
Phase upsamplePhase(int p) { return combine(upsampleAxis(p / 2), upsampleAxis(p % 2), 3); }
constexpr int kUpsamplePhases = 4;

/// All pixels of a picture, or every step-th from (y0, x0).
Grid gridOf(const TensorView& t, int64_t step = 1, int64_t y0 = 0, int64_t x0 = 0) {
  const int64_t H = t.dims[1], W = t.dims[2];
  return {H, W, t.dims[3], (H - y0 + step - 1) / step, (W - x0 + step - 1) / step, step, y0, x0};
}
/// The positions of `positions`, seen in the picture t with another step.
Grid seenFrom(const Grid& positions, const TensorView& t, int64_t step) {
  return {t.dims[1], t.dims[2], t.dims[3], positions.rows, positions.columns, step, 0, 0};
}

/// out (at the positions of `to`) = bias + neighbourhoods of `in` (at a step) · weights.
template <class B>
void runPhase(const KernelArgs& a, const TensorView& in, int64_t inStep, const TensorView& out, const Grid& to,
              const Phase& phase, const Panels<B>& weights, const float* bias) {
  const int64_t rows = out.dims[0] * to.rows * to.columns;
  product(*a.pool, rows, Patches(in.as<float>(), seenFrom(to, in, inStep), phase), weights,
          GridRows{out.as<float>(), to}, AddBias{bias});
}

/// Strides of the official order [O, C, kh, kw] when the sum runs over C (forward) or over O (input gradient).
struct WeightStrides {
  int64_t sum, column;
};
WeightStrides forwardStrides(int64_t C, int64_t taps) { return {taps, C * taps}; }
WeightStrides gradientStrides(int64_t C, int64_t taps) { return {C * taps, taps}; }

template <class B>
void packOfficial(Pool& pool, const Panels<B>& to, const Phase& phase, const TensorView& w, int64_t channels,
                  const WeightStrides& strides) {
  if (w.dtype == DType::bf16) {
    packPhase(pool, to, phase, w.as<uint16_t>(), channels, strides.sum, strides.column);
  } else {
    packPhase(pool, to, phase, w.as<float>(), channels, strides.sum, strides.column);
  }
}

// ---- conv2d

size_t conv2dPlan(const KernelArgs& a) {
  const auto& p = a.paramsAs<ConvParams>();
  return packedElements(p.kh * p.kw * a.in[0].cols(), a.out[0].cols()) * sizeof(float);
}
void conv2dKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<ConvParams>();
  const int64_t C = a.in[0].cols(), taps = p.kh * p.kw;
  const Phase phase = forwardPhase(p);
  const Panels<float> panels = {static_cast<float*>(a.scratch), taps * C, a.out[0].cols()};
  packOfficial(*a.pool, panels, phase, a.in[1], C, forwardStrides(C, taps));
  runPhase(a, a.in[0], p.stride, a.out[0], gridOf(a.out[0]), phase, panels, a.in[2].as<float>());
}
void conv2dPackedKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<ConvParams>();
  const int64_t K = p.kh * p.kw * a.in[0].cols(), O = a.out[0].cols();
  const Phase phase = forwardPhase(p);
  const Grid to = gridOf(a.out[0]);
  const float* bias = a.in[2].as<float>();
  if (a.in[1].dtype == DType::bf16) {
    runPhase(a, a.in[0], p.stride, a.out[0], to, phase, Panels<uint16_t>{a.in[1].as<uint16_t>(), K, O}, bias);
  } else {
    runPhase(a, a.in[0], p.stride, a.out[0], to, phase, Panels<float>{a.in[1].as<float>(), K, O}, bias);
  }
}
template <class B>
void packConv2dTo(const KernelArgs& a) {
  const TensorView& w = a.in[0];
  const int kh = w.dims[2], kw = w.dims[3];
  const int64_t C = w.dims[1];
  const Phase phase = combine(forwardAxis(kh, 0), forwardAxis(kw, 0), kw);
  const Panels<B> panels = {a.out[0].as<B>(), kh * kw * C, w.dims[0]};
  packOfficial(*a.pool, panels, phase, w, C, forwardStrides(C, kh * kw));
}
void packConv2dKernel(const KernelArgs& a) {
  a.out[0].dtype == DType::bf16 ? packConv2dTo<uint16_t>(a) : packConv2dTo<float>(a);
}
void conv2dReferenceKernel(const KernelArgs& a) {
  convReference(a.in[0], a.in[1], a.in[2], a.out[0], a.paramsAs<ConvParams>(), 0);
}
// The reference reads packed weights in the official order.
void packReferenceKernel(const KernelArgs& a) {
  for (int64_t i = 0; i < a.in[0].size(); ++i) a.out[0].as<double>()[i] = a.in[0].as<double>()[i];
}

// in: dy [B, OH, OW, O], w [O, C, kh, kw]; out: dx [B, H, W, C]
size_t conv2dBackwardInputPlan(const KernelArgs& a) {
  // The phases of a stride share the taps of the kernel out among them.
  const auto& p = a.paramsAs<ConvParams>();
  return packedElements(p.kh * p.kw * a.in[0].cols(), a.out[0].cols()) * sizeof(float);
}
void conv2dBackwardInputKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<ConvParams>();
  const int64_t O = a.in[0].cols(), C = a.out[0].cols();
  const int stride = static_cast<int>(p.stride);
  for (int py = 0; py < stride; ++py) {
    for (int px = 0; px < stride; ++px) {
      const Phase phase =
          combine(inputGradientAxis(p.kh, p.padTop, stride, py), inputGradientAxis(p.kw, p.padLeft, stride, px), p.kw);
      const Panels<float> panels = {static_cast<float*>(a.scratch), phase.count * O, C};
      packOfficial(*a.pool, panels, phase, a.in[1], O, gradientStrides(C, p.kh * p.kw));
      runPhase(a, a.in[0], 1, a.out[0], gridOf(a.out[0], stride, py, px), phase, panels, nullptr);
    }
  }
}
void conv2dBackwardInputReferenceKernel(const KernelArgs& a) {
  convBackwardInputReference(a.in[0], a.in[1], a.out[0], a.paramsAs<ConvParams>(), 0);
}

// ---- weight gradients. Partial sums lie in scratch as [phase][segment][O][taps of the phase × C], then column sums.

struct WeightGradientLayout {
  Segments segments;
  int64_t phases, O, K, sumsAt, elements;
  WeightGradientLayout(int64_t rows, int64_t phases, int64_t O, int64_t K)
      : segments(segmentsOf(rows, O, K)),
        phases(phases),
        O(O),
        K(K),
        sumsAt(phases * segments.count * O * K),
        elements(sumsAt + phases * segments.count * O) {}
  size_t bytes(int threads) const { return outerScratch(threads) + elements * sizeof(float); }
};

/// dw[o][c][weight] += Σ_segments partial[o][tap][c] for every weight of every tap.
void addPhase(Pool& pool, const float* partial, const WeightGradientLayout& at, const Phase& phase, int64_t C,
              int64_t taps, float* dw) {
  pool.parallelFor(at.O, [&](int64_t o) {
    for (int t = 0; t < phase.count; ++t) {
      const Tap& tap = phase.tap[t];
      const float* from = partial + o * at.K + t * C;
      for (int64_t c = 0; c < C; ++c) {
        float sum = from[c];
        for (int64_t s = 1; s < at.segments.count; ++s) sum += from[s * at.O * at.K + c];
        for (int i = 0; i < tap.weights; ++i) dw[(o * C + c) * taps + tap.weight[i]] += sum;
      }
    }
  });
}

/// in: dy, x; out: dw, db. phaseOf(p) gives the taps of a phase, gridAt(p) its positions in dy.
template <class PhaseOf, class GridAt>
void runWeightGradient(const KernelArgs& a, int64_t phases, int64_t kernelTaps, int64_t xStep, const PhaseOf& phaseOf,
                       const GridAt& gridAt) {
  const TensorView &dy = a.in[0], &x = a.in[1];
  const int64_t O = dy.cols(), C = x.cols();
  float* dw = a.out[0].as<float>();
  zeroFloats(dw, a.out[0].size());
  float* partials = reinterpret_cast<float*>(static_cast<char*>(a.scratch) + outerScratch(a.pool->threads()));
  const Grid all = gridAt(0);
  const int64_t rows = dy.dims[0] * all.rows * all.columns;
  const WeightGradientLayout at(rows, phases, O, phaseOf(0).count * C);
  for (int64_t p = 0; p < phases; ++p) {
    const Phase phase = phaseOf(static_cast<int>(p));
    const Grid grid = gridAt(static_cast<int>(p));
    float* partial = partials + p * at.segments.count * O * at.K;
    outerProduct(*a.pool, rows, GridRows{dy.as<float>(), grid}, O,
                 Patches(x.as<float>(), seenFrom(grid, x, xStep), phase), at.K, at.segments, partial,
                 partials + at.sumsAt + p * at.segments.count * O, a.scratch);
    addPhase(*a.pool, partial, at, phase, C, kernelTaps, dw);
  }
  addPartials(*a.pool, partials + at.sumsAt, phases * at.segments.count, O, a.out[1].as<float>());
}

size_t conv2dBackwardWeightPlan(const KernelArgs& a) {
  const auto& p = a.paramsAs<ConvParams>();
  return WeightGradientLayout(a.in[0].rows(), 1, a.in[0].cols(), p.kh * p.kw * a.in[1].cols()).bytes(a.pool->threads());
}
void conv2dBackwardWeightKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<ConvParams>();
  runWeightGradient(
      a, 1, p.kh * p.kw, p.stride, [&](int) { return forwardPhase(p); }, [&](int) { return gridOf(a.in[0]); });
}
void conv2dBackwardWeightReferenceKernel(const KernelArgs& a) {
  convBackwardWeightReference(a.in[0], a.in[1], a.out[0], a.out[1], a.paramsAs<ConvParams>(), 0);
}

// ---- upsample_conv2d: nearest ×2 then 3×3 with zeros around, as four 2×2 convolutions of the small picture

size_t upsamplePlan(const KernelArgs& a) { return packedElements(4 * a.in[0].cols(), a.out[0].cols()) * sizeof(float); }
void upsampleConv2dKernel(const KernelArgs& a) {
  const int64_t C = a.in[0].cols();
  const Panels<float> panels = {static_cast<float*>(a.scratch), 4 * C, a.out[0].cols()};
  for (int p = 0; p < kUpsamplePhases; ++p) {
    const Phase phase = upsamplePhase(p);
    packOfficial(*a.pool, panels, phase, a.in[1], C, forwardStrides(C, 9));
    runPhase(a, a.in[0], 1, a.out[0], gridOf(a.out[0], 2, p / 2, p % 2), phase, panels, a.in[2].as<float>());
  }
}
template <class B>
void upsamplePackedFrom(const KernelArgs& a) {
  const int64_t K = 4 * a.in[0].cols(), O = a.out[0].cols();
  for (int p = 0; p < kUpsamplePhases; ++p) {
    const Panels<B> panels = {a.in[1].as<B>() + p * packedElements(K, O), K, O};
    runPhase(a, a.in[0], 1, a.out[0], gridOf(a.out[0], 2, p / 2, p % 2), upsamplePhase(p), panels, a.in[2].as<float>());
  }
}
void upsampleConv2dPackedKernel(const KernelArgs& a) {
  a.in[1].dtype == DType::bf16 ? upsamplePackedFrom<uint16_t>(a) : upsamplePackedFrom<float>(a);
}
template <class B>
void packUpsampleTo(const KernelArgs& a) {
  const int64_t O = a.in[0].dims[0], C = a.in[0].dims[1];
  for (int p = 0; p < kUpsamplePhases; ++p) {
    const Panels<B> panels = {a.out[0].as<B>() + p * packedElements(4 * C, O), 4 * C, O};
    packOfficial(*a.pool, panels, upsamplePhase(p), a.in[0], C, forwardStrides(C, 9));
  }
}
void packUpsampleConv2dKernel(const KernelArgs& a) {
  a.out[0].dtype == DType::bf16 ? packUpsampleTo<uint16_t>(a) : packUpsampleTo<float>(a);
}
void upsampleConv2dReferenceKernel(const KernelArgs& a) {
  convReference(a.in[0], a.in[1], a.in[2], a.out[0], kThreeByThree, 1);
}

size_t upsampleBackwardInputPlan(const KernelArgs& a) {
  return packedElements(16 * a.in[0].cols(), a.out[0].cols()) * sizeof(float);
}
void upsampleConv2dBackwardInputKernel(const KernelArgs& a) {
  const int64_t O = a.in[0].cols(), C = a.out[0].cols();
  const Phase phase = combine(upsampleInputGradientAxis(), upsampleInputGradientAxis(), 3);
  const Panels<float> panels = {static_cast<float*>(a.scratch), 16 * O, C};
  packOfficial(*a.pool, panels, phase, a.in[1], O, gradientStrides(C, 9));
  runPhase(a, a.in[0], 2, a.out[0], gridOf(a.out[0]), phase, panels, nullptr);
}
void upsampleConv2dBackwardInputReferenceKernel(const KernelArgs& a) {
  convBackwardInputReference(a.in[0], a.in[1], a.out[0], kThreeByThree, 1);
}

size_t upsampleBackwardWeightPlan(const KernelArgs& a) {
  return WeightGradientLayout(a.in[1].rows(), kUpsamplePhases, a.in[0].cols(), 4 * a.in[1].cols())
      .bytes(a.pool->threads());
}
void upsampleConv2dBackwardWeightKernel(const KernelArgs& a) {
  runWeightGradient(a, kUpsamplePhases, 9, 1, upsamplePhase, [&](int p) { return gridOf(a.in[0], 2, p / 2, p % 2); });
}
void upsampleConv2dBackwardWeightReferenceKernel(const KernelArgs& a) {
  convBackwardWeightReference(a.in[0], a.in[1], a.out[0], a.out[1], kThreeByThree, 1);
}

}  // namespace

INFINITY_KERNEL(conv2d, conv2dKernel, conv2dReferenceKernel, conv2dPlan);
INFINITY_KERNEL(conv2d_packed, conv2dPackedKernel, conv2dReferenceKernel, nullptr);
INFINITY_KERNEL(pack_conv2d, packConv2dKernel, packReferenceKernel, nullptr);
INFINITY_KERNEL(conv2d_backward_input, conv2dBackwardInputKernel, conv2dBackwardInputReferenceKernel,
                conv2dBackwardInputPlan);
INFINITY_KERNEL(conv2d_backward_weight, conv2dBackwardWeightKernel, conv2dBackwardWeightReferenceKernel,
                conv2dBackwardWeightPlan);
INFINITY_KERNEL(upsample_conv2d, upsampleConv2dKernel, upsampleConv2dReferenceKernel, upsamplePlan);
INFINITY_KERNEL(upsample_conv2d_packed, upsampleConv2dPackedKernel, upsampleConv2dReferenceKernel, nullptr);
INFINITY_KERNEL(pack_upsample_conv2d, packUpsampleConv2dKernel, packReferenceKernel, nullptr);
INFINITY_KERNEL(upsample_conv2d_backward_input, upsampleConv2dBackwardInputKernel,
                upsampleConv2dBackwardInputReferenceKernel, upsampleBackwardInputPlan);
INFINITY_KERNEL(upsample_conv2d_backward_weight, upsampleConv2dBackwardWeightKernel,
                upsampleConv2dBackwardWeightReferenceKernel, upsampleBackwardWeightPlan);

}  // namespace infinity::INFINITY_ISA
