#include "cuda/gemm.cuh"
#include "ops/conv/cuda_pictures.cuh"
#include "ops/conv/cuda_weights.cuh"
#include "ops/norm/cuda_moments.cuh"

namespace infinity::cuda {
namespace {

bool isF32OrBf16(const TensorView& t) { return !t || t.dtype == DType::f32 || t.dtype == DType::bf16; }

// A picture and weights: both f32, both bf16, or bf16 weights for f32 pictures.
bool acceptProduct(const TensorView* in, const TensorView* out) {
  return isF32OrBf16(in[0]) && isF32OrBf16(in[1]) && (in[0].dtype == DType::f32 || in[1].dtype == DType::bf16) &&
         isF32OrBf16(out[0]);
}
bool acceptForward(const TensorView* in, const TensorView* out) { return acceptProduct(in, out) && isF32OrBf16(in[2]); }
bool acceptAdd(const TensorView* in, const TensorView* out) { return acceptForward(in, out) && isF32OrBf16(in[3]); }
bool acceptUpsampleStats(const TensorView* in, const TensorView* out) {
  return acceptForward(in, out) && out[1].dtype == DType::f32;
}
bool acceptStats(const TensorView* in, const TensorView* out) {
  return acceptAdd(in, out) && out[1].dtype == DType::f32;
}
// Gradients of parameters are f32.
bool acceptBackwardWeight(const TensorView* in, const TensorView* out) {
  return isF32OrBf16(in[0]) && in[1].dtype == in[0].dtype && out[0].dtype == DType::f32 && out[1].dtype == DType::f32;
}

WeightStrides forwardStrides(int64_t C, int64_t entries) { return {C * entries, entries}; }
WeightStrides gradientStrides(int64_t C, int64_t entries) { return {entries, C * entries}; }

size_t orderedBytes(const TensorView& in, const TensorView& out, int64_t taps, int64_t parts) {
  return parts * taps * in.cols() * out.cols() * dtypeBytes(in.dtype);
}

// Neighbourhoods of `in` at the positions of `from`, times weights; the epilogue knows where to. The phases have as
// many taps and become the parts of one product.
template <class Epilogue>
void convolve(const KernelArgs& a, const char* name, const TensorView& in, const PixelGrid& from, const TensorView& w,
              const WeightStrides& strides, const Phases& phases, int64_t parts, const Epilogue& epilogue) {
  const int64_t columns = epilogue.picture.channels, taps = phases.phase[0].taps();
  const ProductShape shape = {from.count, columns, taps * in.cols(), parts, Epilogue::kMoments ? kMomentRun : 1};
  withElement(in.dtype, [&](auto element) {
    using T = decltype(element);
    T* ordered = a.scratchAs<T>();
    if (shape.sums > 0) {
      withElement(w.dtype, [&](auto stored) {
        using S = decltype(stored);
        launch(a, "conv: order weights", orderWeights<S, T>, overWeights(columns * shape.sums, parts), w.as<S>(),
               ordered, phases, static_cast<int>(columns), Divisor<uint32_t>(in.cols()), Divisor<uint32_t>(taps),
               strides);
      });
    }
    launchProduct(a, name, shape, planProduct<TilesFor<T>>(shape, *a.device),
                  neighbourhoods<T>(in, from, phases.phase[0]),
                  matrixRows<T>(static_cast<const T*>(ordered), columns, shape.sums, columns * shape.sums), epilogue);
  });
}

PixelGrid everyPixel(const TensorView& t, int64_t step, int64_t y0, int64_t x0) {
  return {t.dims[0], t.dims[1], t.dims[2], step, y0, x0};
}

// ---- conv2d; in: x [B, H, W, C], w [O, C, kh, kw], bias, residual

size_t conv2dScratch(const KernelArgs& a) {
  const auto& p = a.paramsAs<ConvParams>();
  return orderedBytes(a.in[0], a.out[0], p.kh * p.kw, 1);
}
template <class Epilogue>
void convolvePicture(const KernelArgs& a, const Epilogue& epilogue) {
  const auto& p = a.paramsAs<ConvParams>();
  const TensorView &x = a.in[0], &y = a.out[0];
  const Phase phase = forwardPhase(p);
  convolve(a, "conv2d", x, everyPixel(y, p.stride, phase.y.first, phase.x.first), a.in[1],
           forwardStrides(x.cols(), p.kh * p.kw), {{phase}}, 1, epilogue);
}
PixelEpilogue conv2dEpilogue(const KernelArgs& a, const TensorView& residual) {
  return {a.out[0], everyPixel(a.out[0], 1, 0, 0), a.in[2], residual};
}
void launchConv2d(const KernelArgs& a) { convolvePicture(a, conv2dEpilogue(a, {})); }
void launchConv2dAdd(const KernelArgs& a) { convolvePicture(a, conv2dEpilogue(a, a.in[3])); }

// ---- conv2d_backward_input; in: dy [B, OH, OW, O], w. Inputs that are equal modulo the stride see the same taps.

size_t conv2dBackwardInputScratch(const KernelArgs& a) {
  const auto& p = a.paramsAs<ConvParams>();
  return orderedBytes(a.in[0], a.out[0], p.kh * p.kw, 1);
}
void launchConv2dBackwardInput(const KernelArgs& a) {
  const auto& p = a.paramsAs<ConvParams>();
  const TensorView &dy = a.in[0], &dx = a.out[0];
  const int stride = static_cast<int>(p.stride);
  for (int py = 0; py < stride; ++py) {
    for (int px = 0; px < stride; ++px) {
      const int64_t rows = ceilDiv(static_cast<int64_t>(dx.dims[1]) - py, stride);
      const int64_t columns = ceilDiv(static_cast<int64_t>(dx.dims[2]) - px, stride);
      if (rows <= 0 || columns <= 0) continue;
      const Phase phase = inputGradientPhase(p, py, px);
      const PixelGrid to = {dx.dims[0], rows, columns, stride, py, px};
      convolve(a, "conv2d_backward_input", dy, {dx.dims[0], rows, columns, 1, phase.y.first, phase.x.first}, a.in[1],
               gradientStrides(dx.cols(), p.kh * p.kw), {{phase}}, 1, PixelEpilogue(dx, to, {}, {}));
    }
  }
}

// ---- upsample_conv2d: nearest ×2 then 3×3 with zeros around, as four 2×2 convolutions of the small picture

size_t upsampleScratch(const KernelArgs& a) {
  return orderedBytes(a.in[0], a.out[0], upsamplePhase(0).taps(), kUpsamplePhases);
}
template <class Epilogue>
void upsamplePicture(const KernelArgs& a, const Epilogue& epilogue) {
  const TensorView& x = a.in[0];
  Phases phases;
  for (int p = 0; p < kUpsamplePhases; ++p) phases.phase[p] = upsamplePhase(p);
  convolve(a, "upsample_conv2d", x, everyPixel(x, 1, -1, -1), a.in[1], forwardStrides(x.cols(), 9), phases,
           kUpsamplePhases, epilogue);
}
PixelEpilogue upsampleEpilogue(const KernelArgs& a) { return {a.out[0], everyPixel(a.in[0], 2, 0, 0), a.in[2], {}}; }
void launchUpsample(const KernelArgs& a) { upsamplePicture(a, upsampleEpilogue(a)); }

// in: dy [B, 2H, 2W, O], w
size_t upsampleBackwardInputScratch(const KernelArgs& a) {
  return orderedBytes(a.in[0], a.out[0], upsampleInputGradientPhase().taps(), 1);
}
void launchUpsampleBackwardInput(const KernelArgs& a) {
  const TensorView &dy = a.in[0], &dx = a.out[0];
  const Phase phase = upsampleInputGradientPhase();
  convolve(a, "upsample_conv2d_backward_input", dy, everyPixel(dx, 2, phase.y.first, phase.x.first), a.in[1],
           gradientStrides(dx.cols(), 9), {{phase}}, 1, PixelEpilogue(dx, everyPixel(dx, 1, 0, 0), {}, {}));
}

// ---- conv2d_stats, upsample_conv2d_stats; out: y and the statistics [B, groups, 2] of the group norm that follows.
// Tiles leave moments of runs of positions where every picture is whole runs of them: a question of its size alone, so
// that its statistics have the same bits in every batch. Other pictures are gone over once more.

struct StatsPlan {
  int64_t runs, parts;  // runs of a picture in each part; none: the picture is gone over
  ColumnTiles tiles;
  size_t ordered, rows;  // bytes of scratch: weights, then moments of runs, then those of runs of runs

  StatsPlan(const TensorView& y, int64_t parts, size_t weights)
      : runs(y.rows() / y.dims[0] / parts % kMomentRun == 0 ? y.rows() / y.dims[0] / parts / kMomentRun : 0),
        parts(parts),
        tiles(runs > 0 ? momentTiles(y.dims[0], parts * runs, y.cols()) : pixelTiles(y)),
        ordered(ceilDiv(weights, 256) * 256),
        rows(y.dims[0] * parts * runs * 2 * y.cols() * sizeof(float)) {}
  size_t scratch() const { return ordered + rows + runBytes(tiles); }
};

// `convolved` launches the convolution with the epilogue that it is given.
template <class Convolved>
void launchWithStats(const KernelArgs& a, const StatsPlan& plan, const NormAhead& norm, const PixelEpilogue& pixels,
                     const Convolved& convolved) {
  float* const rows = reinterpret_cast<float*>(a.scratchAs<unsigned char>() + plan.ordered);
  float* const moments = rows + plan.rows / sizeof(float);
  float* const stats = a.out[1].as<float>();
  if (plan.runs > 0) {
    convolved(MeasuredPixels(pixels, rows, plan.runs, plan.parts));
    launchStatsOfMoments(a, plan.tiles, rows, norm.groups, norm.eps, moments, stats);
  } else {
    convolved(pixels);
    launchStats(a, a.out[0], norm.groups, norm.eps, moments, stats);
  }
}

StatsPlan conv2dStatsPlan(const KernelArgs& a) { return {a.out[0], 1, conv2dScratch(a)}; }
size_t conv2dStatsScratch(const KernelArgs& a) { return conv2dStatsPlan(a).scratch(); }
void launchConv2dStats(const KernelArgs& a) {
  launchWithStats(a, conv2dStatsPlan(a), a.paramsAs<ConvStatsParams>().norm, conv2dEpilogue(a, a.in[3]),
                  [&](const auto& epilogue) { convolvePicture(a, epilogue); });
}
StatsPlan upsampleStatsPlan(const KernelArgs& a) { return {a.out[0], kUpsamplePhases, upsampleScratch(a)}; }
size_t upsampleStatsScratch(const KernelArgs& a) { return upsampleStatsPlan(a).scratch(); }
void launchUpsampleStats(const KernelArgs& a) {
  launchWithStats(a, upsampleStatsPlan(a), a.paramsAs<NormAhead>(), upsampleEpilogue(a),
                  [&](const auto& epilogue) { upsamplePicture(a, epilogue); });
}

// ---- weight gradients; in: dy, x; out: dw [O, C, kh, kw], db [O]

struct WeightGradient {
  ProductShape shape;
  ProductPlan plan;
  int64_t pieces;

  WeightGradient(const KernelArgs& a, int64_t positions, int64_t taps, int64_t parts)
      : shape{a.in[0].cols(), taps * a.in[1].cols(), positions, parts} {
    withElement(a.in[0].dtype, [&](auto element) {
      plan = planProduct<TilesFor<decltype(element)>>(shape, *a.device, splitsOf(shape));
    });
    pieces = parts * plan.splits;
  }
  size_t scratch() const { return pieces * shape.rows * (shape.columns + 1) * sizeof(float); }
};

// dw = dy at the positions of `to`, transposed, times neighbourhoods of x at those of `from`.
void weightGradient(const KernelArgs& a, const char* name, const WeightGradient& g, const PixelGrid& to,
                    const PixelGrid& from, const Phase& phase, int64_t entries) {
  const TensorView &dy = a.in[0], &x = a.in[1];
  float* data = a.scratchAs<float>();
  const PartialSums partial = {data, data + g.pieces * g.shape.rows * g.shape.columns, static_cast<int>(g.shape.rows),
                               static_cast<int>(g.shape.columns), g.shape.columns % kEpilogueWidth == 0};
  withElement(dy.dtype, [&](auto element) {
    using T = decltype(element);
    launchProduct(a, name, g.shape, g.plan, neighbourhoodColumns<T>(dy, to, 1, 1),
                  neighbourhoodColumns<T>(x, from, phase.taps(), phase.x.count), partial);
  });
  launch(a, "conv: add pieces", addPieces<EntryToTap>, overWeights(a.out[0].size()), partial,
         static_cast<int>(g.shape.parts), g.plan.splits, Divisor<uint32_t>(x.cols()), Divisor<uint32_t>(entries),
         EntryToTap{g.shape.parts > 1}, a.out[0].as<float>(), a.out[1].as<float>());
}

int64_t pixels(const TensorView& t) { return t.rows(); }

size_t conv2dBackwardWeightScratch(const KernelArgs& a) {
  const auto& p = a.paramsAs<ConvParams>();
  return WeightGradient(a, pixels(a.in[0]), p.kh * p.kw, 1).scratch();
}
void launchConv2dBackwardWeight(const KernelArgs& a) {
  const auto& p = a.paramsAs<ConvParams>();
  const TensorView& dy = a.in[0];
  const Phase phase = forwardPhase(p);
  weightGradient(a, "conv2d_backward_weight", WeightGradient(a, pixels(dy), phase.taps(), 1), everyPixel(dy, 1, 0, 0),
                 everyPixel(dy, p.stride, phase.y.first, phase.x.first), phase, phase.taps());
}

size_t upsampleBackwardWeightScratch(const KernelArgs& a) {
  return WeightGradient(a, pixels(a.in[1]), upsamplePhase(0).taps(), kUpsamplePhases).scratch();
}
void launchUpsampleBackwardWeight(const KernelArgs& a) {
  const TensorView& x = a.in[1];
  const Phase phase = upsamplePhase(0);
  weightGradient(a, "upsample_conv2d_backward_weight", WeightGradient(a, pixels(x), phase.taps(), kUpsamplePhases),
                 everyPixel(x, 2, 0, 0), everyPixel(x, 1, -1, -1), phase, 9);
}

}  // namespace

INFINITY_CUDA_KERNEL(conv2d, launchConv2d, conv2dScratch, acceptForward);
INFINITY_CUDA_KERNEL(conv2d_add, launchConv2dAdd, conv2dScratch, acceptAdd);
INFINITY_CUDA_KERNEL(conv2d_stats, launchConv2dStats, conv2dStatsScratch, acceptStats);
INFINITY_CUDA_KERNEL(conv2d_backward_input, launchConv2dBackwardInput, conv2dBackwardInputScratch, acceptProduct);
INFINITY_CUDA_KERNEL(conv2d_backward_weight, launchConv2dBackwardWeight, conv2dBackwardWeightScratch,
                     acceptBackwardWeight);
INFINITY_CUDA_KERNEL(upsample_conv2d, launchUpsample, upsampleScratch, acceptForward);
INFINITY_CUDA_KERNEL(upsample_conv2d_stats, launchUpsampleStats, upsampleStatsScratch, acceptUpsampleStats);
INFINITY_CUDA_KERNEL(upsample_conv2d_backward_input, launchUpsampleBackwardInput, upsampleBackwardInputScratch,
                     acceptProduct);
INFINITY_CUDA_KERNEL(upsample_conv2d_backward_weight, launchUpsampleBackwardWeight, upsampleBackwardWeightScratch,
                     acceptBackwardWeight);

}  // namespace infinity::cuda
