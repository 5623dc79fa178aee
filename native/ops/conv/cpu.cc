#include "cpu/conv.h"
#include "cpu/kernel.h"
#include "cpu/winograd.h"
#include "ops/conv/conv.h"
#include "ops/conv/cpu_stats.h"

namespace infinity::INFINITY_ISA {
namespace {

Picture picture(const TensorView& t) { return {t.as<float>(), t.dims[0], t.dims[1], t.dims[2], t.dims[3]}; }

/// Strides of the official order [O, C, kh, kw] when the sum runs over C (forward) or over O (input gradient).
struct WeightStrides {
  int64_t sum, column;
};
WeightStrides forwardStrides(int64_t C, int64_t taps) { return {taps, C * taps}; }
WeightStrides gradientStrides(int64_t C, int64_t taps) { return {C * taps, taps}; }

template <class B>
void packWeights(Pool& pool, const Panels<B>& to, const Phase& phase, const TensorView& w, int64_t channels,
                 const WeightStrides& strides) {
  if (w.dtype == DType::bf16) {
    packPhase(pool, to, phase, w.as<uint16_t>(), channels, strides.sum, strides.column);
  } else {
    packPhase(pool, to, phase, w.as<float>(), channels, strides.sum, strides.column);
  }
}

/// Scratch is the packed weights, then the memory of the tiles.
struct ConvScratch {
  Panels<float> panels;
  void* tiles;
  ConvScratch(const KernelArgs& a, int64_t terms, int64_t columns)
      : panels{static_cast<float*>(a.scratch), terms, columns},
        tiles(static_cast<char*>(a.scratch) + panelBytes(terms, columns)) {}
};
size_t convScratch(const KernelArgs& a, const TensorView& in, int64_t inStep, const TensorView& out,
                   const Placement& at, const Phase& phase) {
  const int64_t terms = phaseTerms(phase, in.cols());
  const Panels<float> panels = {nullptr, terms, out.cols()};
  const ConvCut cut(picture(in), inStep, at, phase, panels.count(), a.pool->threads());
  return panelBytes(terms, out.cols()) + a.pool->threads() * cut.bytes(in.cols());
}

/// Packed weights as f32: in place, or widened into scratch.
Panels<float> packedPanels(const KernelArgs& a, int64_t at, const Panels<float>& scratch) {
  const int64_t n = packedElements(scratch.K, scratch.N);
  if (a.in[1].dtype != DType::bf16) return {a.in[1].as<float>() + at * n, scratch.K, scratch.N};
  const Panels<uint16_t> from = {a.in[1].as<uint16_t>() + at * n, scratch.K, scratch.N};
  a.pool->parallelFor(from.count(), [&](int64_t p) {
    for (int64_t k = 0; k < scratch.K; ++k) {
      if (from.vectors(p) == kVN) {
        VecF row[kVN];
        loadPanelRow<kVN>(from.panel(p) + k * kNR, row);
        storePanelRow<kVN>(scratch.panel(p) + k * kNR, row);
      } else {
        store(scratch.panel(p) + k * kLanes, load(from.panel(p) + k * kLanes));
      }
    }
  });
  return scratch;
}

// ---- conv2d

size_t conv2dPlan(const KernelArgs& a) {
  const TensorView &x = a.in[0], &y = a.out[0];
  return convScratch(a, x, a.paramsAs<ConvParams>().stride, y, everyPixel(picture(y)),
                     forwardPhase(a.paramsAs<ConvParams>()));
}
void runConv2d(const KernelArgs& a, const Panels<float>& weights, void* tiles) {
  const auto& p = a.paramsAs<ConvParams>();
  const TensorView &x = a.in[0], &y = a.out[0];
  const AddBias bias = {a.in[2].as<float>()};
  if (pointwise(p)) {
    return product(*a.pool, x.rows(), PixelRows{x.as<float>(), x.cols()}, weights, MatrixOut{y.as<float>(), y.cols()},
                   bias);
  }
  convolve(*a.pool, picture(x), p.stride, picture(y), everyPixel(picture(y)), forwardPhase(p), weights, bias, tiles);
}
void conv2dKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<ConvParams>();
  const int64_t C = a.in[0].cols();
  const Phase phase = forwardPhase(p);
  const ConvScratch scratch(a, phaseTerms(phase, C), a.out[0].cols());
  packWeights(*a.pool, scratch.panels, phase, a.in[1], C, forwardStrides(C, phase.taps()));
  runConv2d(a, scratch.panels, scratch.tiles);
}
void conv2dPackedKernel(const KernelArgs& a) {
  const int64_t terms = phaseTerms(forwardPhase(a.paramsAs<ConvParams>()), a.in[0].cols());
  const ConvScratch scratch(a, terms, a.out[0].cols());
  runConv2d(a, packedPanels(a, 0, scratch.panels), scratch.tiles);
}
void packConv2dKernel(const KernelArgs& a) {
  const TensorView& w = a.in[0];
  const int64_t O = w.dims[0], C = w.dims[1];
  const ConvParams unpadded = {w.dims[2], w.dims[3], 1, 0, 0};
  const Phase phase = forwardPhase(unpadded);
  const int64_t terms = phaseTerms(phase, C);
  const WeightStrides strides = forwardStrides(C, phase.taps());
  if (a.out[0].dtype == DType::bf16) {
    packWeights(*a.pool, Panels<uint16_t>{a.out[0].as<uint16_t>(), terms, O}, phase, w, C, strides);
  } else {
    packWeights(*a.pool, Panels<float>{a.out[0].as<float>(), terms, O}, phase, w, C, strides);
  }
}
void conv2dReferenceKernel(const KernelArgs& a) {
  convReference(a.in[0], a.in[1], a.in[2], a.out[0], a.paramsAs<ConvParams>(), 0);
}
// The reference reads packed weights in the official order.
void packReferenceKernel(const KernelArgs& a) {
  for (int64_t i = 0; i < a.in[0].size(); ++i) a.out[0].as<double>()[i] = a.in[0].as<double>()[i];
}

// in: dy [B, OH, OW, O], w [O, C, kh, kw]; out: dx [B, H, W, C]
template <class F>
void forEachInputGradientPhase(const KernelArgs& a, const F& f) {
  const auto& p = a.paramsAs<ConvParams>();
  const int stride = static_cast<int>(p.stride);
  for (int py = 0; py < stride; ++py) {
    for (int px = 0; px < stride; ++px) {
      const Placement at = everySecond(picture(a.out[0]), stride, py, px);
      if (at.rows > 0 && at.columns > 0) f(inputGradientPhase(p, py, px), at);
    }
  }
}
size_t conv2dBackwardInputPlan(const KernelArgs& a) {
  size_t most = 0;
  forEachInputGradientPhase(a, [&](const Phase& phase, const Placement& at) {
    const size_t bytes = convScratch(a, a.in[0], 1, a.out[0], at, phase);
    if (bytes > most) most = bytes;
  });
  return most;
}
void conv2dBackwardInputKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<ConvParams>();
  const TensorView &dy = a.in[0], &w = a.in[1], &dx = a.out[0];
  const int64_t O = dy.cols(), C = dx.cols();
  forEachInputGradientPhase(a, [&](const Phase& phase, const Placement& at) {
    const ConvScratch scratch(a, phaseTerms(phase, O), C);
    packWeights(*a.pool, scratch.panels, phase, w, O, gradientStrides(C, p.kh * p.kw));
    if (pointwise(p)) {
      return product(*a.pool, dy.rows(), PixelRows{dy.as<float>(), O}, scratch.panels, MatrixOut{dx.as<float>(), C},
                     AddBias{nullptr});
    }
    convolve(*a.pool, picture(dy), 1, picture(dx), at, phase, scratch.panels, AddBias{nullptr}, scratch.tiles);
  });
}
void conv2dBackwardInputReferenceKernel(const KernelArgs& a) {
  convBackwardInputReference(a.in[0], a.in[1], a.out[0], a.paramsAs<ConvParams>(), 0);
}

// ---- weight gradients; in: dy, x; out: dw, db

/// Scratch is the memory of the tiles, the partial sums of every phase, then their sums of dy.
size_t weightGradientScratch(const KernelArgs& a, const GradientLayout& layout, int64_t phases, int64_t xStep,
                             const Phase& phase) {
  const size_t tiles = a.pool->threads() * gradientScratch(layout, xStep, phase, a.in[1].cols());
  return tiles + phases * (layout.elements() + layout.sums()) * sizeof(float);
}

/// phaseOf(p) gives the taps of a phase, placeOf(p) its positions in dy; all phases have the same size.
template <class PhaseOf, class PlaceOf>
void runWeightGradient(const KernelArgs& a, int64_t phases, int64_t kernelTaps, int64_t xStep, const PhaseOf& phaseOf,
                       const PlaceOf& placeOf) {
  const Picture dy = picture(a.in[0]), x = picture(a.in[1]);
  const GradientLayout layout(dy.B, placeOf(0), phaseOf(0), dy.C, x.C);
  float* dw = a.out[0].as<float>();
  zeroFloats(dw, a.out[0].size());
  float* partials = reinterpret_cast<float*>(static_cast<char*>(a.scratch) +
                                             a.pool->threads() * gradientScratch(layout, xStep, phaseOf(0), x.C));
  float* sums = partials + phases * layout.elements();
  for (int p = 0; p < phases; ++p) {
    const Phase phase = phaseOf(p);
    float* partial = partials + p * layout.elements();
    convolveGradient(*a.pool, dy, placeOf(p), x, xStep, phase, layout, partial, sums + p * layout.sums(), a.scratch);
    addGradient(*a.pool, partial, layout, phase, x.C, kernelTaps, dw);
  }
  addPartials(*a.pool, sums, phases * layout.segments.count, dy.C, a.out[1].as<float>());
}

size_t conv2dBackwardWeightPlan(const KernelArgs& a) {
  const auto& p = a.paramsAs<ConvParams>();
  const int64_t O = a.in[0].cols(), C = a.in[1].cols();
  if (pointwise(p)) return weightGradientBytes(a.pool->threads(), a.in[0].rows(), O, C);
  const Picture dy = picture(a.in[0]);
  const Phase phase = forwardPhase(p);
  return weightGradientScratch(a, GradientLayout(dy.B, everyPixel(dy), phase, O, C), 1, p.stride, phase);
}
void conv2dBackwardWeightKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<ConvParams>();
  if (pointwise(p)) {
    return weightGradient(*a.pool, a.in[0].rows(), a.in[0].as<float>(), a.in[0].cols(), a.in[1].as<float>(),
                          a.in[1].cols(), a.out[0].as<float>(), a.out[1].as<float>(), a.scratch);
  }
  runWeightGradient(
      a, 1, p.kh * p.kw, p.stride, [&](int) { return forwardPhase(p); },
      [&](int) { return everyPixel(picture(a.in[0])); });
}
void conv2dBackwardWeightReferenceKernel(const KernelArgs& a) {
  convBackwardWeightReference(a.in[0], a.in[1], a.out[0], a.out[1], a.paramsAs<ConvParams>(), 0);
}

// ---- upsample_conv2d: nearest ×2 then 3×3 with zeros around, as four 2×2 convolutions of the small picture

Placement upsamplePlace(const TensorView& large, int p) { return everySecond(picture(large), 2, p / 2, p % 2); }

size_t upsamplePlan(const KernelArgs& a) {
  return convScratch(a, a.in[0], 1, a.out[0], upsamplePlace(a.out[0], 0), upsamplePhase(0));
}
/// weightsOf(p, scratch) gives the packed weights of a phase.
template <class WeightsOf>
void runUpsample(const KernelArgs& a, const WeightsOf& weightsOf) {
  const TensorView &x = a.in[0], &y = a.out[0];
  const AddBias bias = {a.in[2].as<float>()};
  for (int p = 0; p < kUpsamplePhases; ++p) {
    const Phase phase = upsamplePhase(p);
    const ConvScratch scratch(a, phaseTerms(phase, x.cols()), y.cols());
    convolve(*a.pool, picture(x), 1, picture(y), upsamplePlace(y, p), phase, weightsOf(p, phase, scratch.panels), bias,
             scratch.tiles);
  }
}
void upsampleConv2dKernel(const KernelArgs& a) {
  const int64_t C = a.in[0].cols();
  runUpsample(a, [&](int, const Phase& phase, const Panels<float>& panels) {
    packWeights(*a.pool, panels, phase, a.in[1], C, forwardStrides(C, 9));
    return panels;
  });
}
void upsampleConv2dPackedKernel(const KernelArgs& a) {
  runUpsample(a, [&](int p, const Phase&, const Panels<float>& panels) { return packedPanels(a, p, panels); });
}
template <class B>
void packUpsampleTo(const KernelArgs& a) {
  const int64_t O = a.in[0].dims[0], C = a.in[0].dims[1];
  for (int p = 0; p < kUpsamplePhases; ++p) {
    const int64_t terms = phaseTerms(upsamplePhase(p), C);
    const Panels<B> panels = {a.out[0].as<B>() + p * packedElements(terms, O), terms, O};
    packWeights(*a.pool, panels, upsamplePhase(p), a.in[0], C, forwardStrides(C, 9));
  }
}
void packUpsampleConv2dKernel(const KernelArgs& a) {
  a.out[0].dtype == DType::bf16 ? packUpsampleTo<uint16_t>(a) : packUpsampleTo<float>(a);
}
void upsampleConv2dReferenceKernel(const KernelArgs& a) {
  convReference(a.in[0], a.in[1], a.in[2], a.out[0], kThreeByThree, 1);
}

// ---- both with packed weights and fewer multiplications

template <class Form>
size_t winogradPlan(const KernelArgs& a) {
  return WinogradCut<Form>(picture(a.out[0]), a.in[0].cols(), a.pool->threads()).scratch(a.pool->threads());
}
template <class B>
KernelPoints<B> kernelPoints(const KernelArgs& a) {
  const int64_t C = a.in[0].cols();
  return {{a.in[1].as<B>(), phaseTerms(forwardPhase(kThreeByThree), C), a.out[0].cols()}, C};
}
template <class B>
PhasePoints<B> phasePoints(const KernelArgs& a) {
  const int64_t C = a.in[0].cols(), O = a.out[0].cols(), terms = phaseTerms(upsamplePhase(0), C);
  PhasePoints<B> points = {{}, C};
  for (int p = 0; p < kUpsamplePhases; ++p)
    points.phases[p] = {a.in[1].as<B>() + p * packedElements(terms, O), terms, O};
  return points;
}
template <class Form, class Weights>
void runWinograd(const KernelArgs& a, const Weights& weights, const WinogradParams& p) {
  winograd<Form>(*a.pool, picture(a.in[0]), picture(a.out[0]), p.padTop, p.padLeft, weights,
                 AddBias{a.in[2].as<float>()}, a.scratch);
}
void conv2dWinogradKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<WinogradParams>();
  a.in[1].dtype == DType::bf16 ? runWinograd<WinogradF4>(a, kernelPoints<uint16_t>(a), p)
                               : runWinograd<WinogradF4>(a, kernelPoints<float>(a), p);
}
void conv2dWinogradReferenceKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<WinogradParams>();
  convReference(a.in[0], a.in[1], a.in[2], a.out[0], {3, 3, 1, p.padTop, p.padLeft}, 0);
}
void upsampleConv2dWinogradKernel(const KernelArgs& a) {
  a.in[1].dtype == DType::bf16 ? runWinograd<WinogradUpsample>(a, phasePoints<uint16_t>(a), {1, 1})
                               : runWinograd<WinogradUpsample>(a, phasePoints<float>(a), {1, 1});
}

size_t upsampleBackwardInputPlan(const KernelArgs& a) {
  return convScratch(a, a.in[0], 2, a.out[0], everyPixel(picture(a.out[0])), upsampleInputGradientPhase());
}
void upsampleConv2dBackwardInputKernel(const KernelArgs& a) {
  const TensorView &dy = a.in[0], &dx = a.out[0];
  const Phase phase = upsampleInputGradientPhase();
  const ConvScratch scratch(a, phaseTerms(phase, dy.cols()), dx.cols());
  packWeights(*a.pool, scratch.panels, phase, a.in[1], dy.cols(), gradientStrides(dx.cols(), 9));
  convolve(*a.pool, picture(dy), 2, picture(dx), everyPixel(picture(dx)), phase, scratch.panels, AddBias{nullptr},
           scratch.tiles);
}
void upsampleConv2dBackwardInputReferenceKernel(const KernelArgs& a) {
  convBackwardInputReference(a.in[0], a.in[1], a.out[0], kThreeByThree, 1);
}

size_t upsampleBackwardWeightPlan(const KernelArgs& a) {
  const Picture dy = picture(a.in[0]), x = picture(a.in[1]);
  const GradientLayout layout(dy.B, upsamplePlace(a.in[0], 0), upsamplePhase(0), dy.C, x.C);
  return weightGradientScratch(a, layout, kUpsamplePhases, 1, upsamplePhase(0));
}
void upsampleConv2dBackwardWeightKernel(const KernelArgs& a) {
  runWeightGradient(a, kUpsamplePhases, 9, 1, upsamplePhase, [&](int p) { return upsamplePlace(a.in[0], p); });
}
void upsampleConv2dBackwardWeightReferenceKernel(const KernelArgs& a) {
  convBackwardWeightReference(a.in[0], a.in[1], a.out[0], a.out[1], kThreeByThree, 1);
}

}  // namespace
INFINITY_KERNEL(conv2d, conv2dKernel, conv2dReferenceKernel, conv2dPlan);
INFINITY_KERNEL(conv2d_add, (convAddKernel<float, conv2dKernel>), (convAddKernel<double, conv2dReferenceKernel>),
                conv2dPlan);
INFINITY_KERNEL(conv2d_stats, (convStatsKernel<float, conv2dKernel>), (convStatsKernel<double, conv2dReferenceKernel>),
                conv2dPlan);
INFINITY_KERNEL(conv2d_packed, conv2dPackedKernel, conv2dReferenceKernel, conv2dPlan);
INFINITY_KERNEL(conv2d_winograd, conv2dWinogradKernel, conv2dWinogradReferenceKernel, winogradPlan<WinogradF4>);
INFINITY_KERNEL(pack_conv2d, packConv2dKernel, packReferenceKernel, nullptr);
INFINITY_KERNEL(conv2d_backward_input, conv2dBackwardInputKernel, conv2dBackwardInputReferenceKernel,
                conv2dBackwardInputPlan);
INFINITY_KERNEL(conv2d_backward_weight, conv2dBackwardWeightKernel, conv2dBackwardWeightReferenceKernel,
                conv2dBackwardWeightPlan);
INFINITY_KERNEL(upsample_conv2d, upsampleConv2dKernel, upsampleConv2dReferenceKernel, upsamplePlan);
INFINITY_KERNEL(upsample_conv2d_stats, (upsampleStatsKernel<float, upsampleConv2dKernel>),
                (upsampleStatsKernel<double, upsampleConv2dReferenceKernel>), upsamplePlan);
INFINITY_KERNEL(upsample_conv2d_packed, upsampleConv2dPackedKernel, upsampleConv2dReferenceKernel, upsamplePlan);
INFINITY_KERNEL(upsample_conv2d_winograd, upsampleConv2dWinogradKernel, upsampleConv2dReferenceKernel,
                winogradPlan<WinogradUpsample>);
INFINITY_KERNEL(pack_upsample_conv2d, packUpsampleConv2dKernel, packReferenceKernel, nullptr);
INFINITY_KERNEL(upsample_conv2d_backward_input, upsampleConv2dBackwardInputKernel,
                upsampleConv2dBackwardInputReferenceKernel, upsampleBackwardInputPlan);
INFINITY_KERNEL(upsample_conv2d_backward_weight, upsampleConv2dBackwardWeightKernel,
                upsampleConv2dBackwardWeightReferenceKernel, upsampleBackwardWeightPlan);

}  // namespace infinity::INFINITY_ISA
