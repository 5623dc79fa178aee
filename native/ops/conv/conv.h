// Convolutions over channels-last pictures with weights in official order [O, C, kh, kw]: parameters, and the
// definition with its gradients in double precision, as plain loops over outputs and taps.
#pragma once
#include "core/taps.h"
#include "core/tensor.h"

namespace infinity {

// x [B, H, W, C] → y [B, OH, OW, O]. Zeros lie around the picture: `padTop` rows above, `padLeft` columns before, and
// as many below and behind as the shape of y asks for.
struct ConvParams {
  uint32_t kh, kw, stride, padTop, padLeft;
};
// The same for 3 × 3 and stride 1.
struct WinogradParams {
  uint32_t padTop, padLeft;
};

// The group norm that follows.
struct NormAhead {
  uint32_t groups;
  float eps;
};
struct ConvStatsParams {
  ConvParams conv;
  NormAhead norm;
};

namespace {

constexpr ConvParams kThreeByThree = {3, 3, 1, 1, 1};
constexpr int kUpsamplePhases = 4;

inline Phase forwardPhase(const ConvParams& p) {
  return {forwardAxis(p.kh, p.padTop), forwardAxis(p.kw, p.padLeft), static_cast<int>(p.kw)};
}
// For the inputs whose row is py and whose column is px modulo the stride.
inline Phase inputGradientPhase(const ConvParams& p, int py, int px) {
  const int stride = static_cast<int>(p.stride);
  return {inputGradientAxis(p.kh, p.padTop, stride, py), inputGradientAxis(p.kw, p.padLeft, stride, px),
          static_cast<int>(p.kw)};
}
// For the outputs of odd or even row p / 2 and column p % 2.
inline Phase upsamplePhase(int p) { return {upsampleAxis(p / 2), upsampleAxis(p % 2), 3}; }
inline Phase upsampleInputGradientPhase() { return {upsampleInputGradientAxis(), upsampleInputGradientAxis(), 3}; }

// A 1 × 1 convolution of every pixel is a linear layer.
inline bool pointwise(const ConvParams& p) {
  return p.kh == 1 && p.kw == 1 && p.stride == 1 && p.padTop == 0 && p.padLeft == 0;
}

// Calls f(y element, x element, weight element) once for each product that the definition holds. The picture is read at
// (row >> shift, column >> shift): shift 1 is nearest upsampling by two.
template <class F>
void forEachConvProduct(const TensorView& x, const TensorView& y, const ConvParams& p, int shift, const F& f) {
  const int64_t H = x.dims[1], W = x.dims[2], C = x.dims[3], OH = y.dims[1], OW = y.dims[2], O = y.dims[3];
  for (int64_t b = 0; b < y.dims[0]; ++b) {
    for (int64_t oy = 0; oy < OH; ++oy) {
      for (int64_t ox = 0; ox < OW; ++ox) {
        for (int64_t ky = 0; ky < p.kh; ++ky) {
          for (int64_t kx = 0; kx < p.kw; ++kx) {
            const int64_t iy = oy * p.stride + ky - p.padTop, ix = ox * p.stride + kx - p.padLeft;
            if (iy < 0 || iy >= H << shift || ix < 0 || ix >= W << shift) continue;
            const int64_t from = ((b * H + (iy >> shift)) * W + (ix >> shift)) * C;
            const int64_t to = ((b * OH + oy) * OW + ox) * O;
            for (int64_t o = 0; o < O; ++o)
              for (int64_t c = 0; c < C; ++c) f(to + o, from + c, ((o * C + c) * p.kh + ky) * p.kw + kx);
          }
        }
      }
    }
  }
}

inline void fillZero(const TensorView& t) {
  for (int64_t i = 0; i < t.size(); ++i) t.as<double>()[i] = 0;
}

inline void convReference(const TensorView& x, const TensorView& w, const TensorView& bias, const TensorView& y,
                          const ConvParams& p, int shift) {
  const int64_t O = y.cols();
  for (int64_t i = 0; i < y.size(); ++i) y.as<double>()[i] = bias ? bias.as<double>()[i % O] : 0.0;
  forEachConvProduct(x, y, p, shift, [&](int64_t to, int64_t from, int64_t k) {
    y.as<double>()[to] += x.as<double>()[from] * w.as<double>()[k];
  });
}

inline void convBackwardInputReference(const TensorView& dy, const TensorView& w, const TensorView& dx,
                                       const ConvParams& p, int shift) {
  fillZero(dx);
  forEachConvProduct(dx, dy, p, shift, [&](int64_t to, int64_t from, int64_t k) {
    dx.as<double>()[from] += dy.as<double>()[to] * w.as<double>()[k];
  });
}

inline void convBackwardWeightReference(const TensorView& dy, const TensorView& x, const TensorView& dw,
                                        const TensorView& db, const ConvParams& p, int shift) {
  fillZero(dw);
  fillZero(db);
  forEachConvProduct(x, dy, p, shift, [&](int64_t to, int64_t from, int64_t k) {
    dw.as<double>()[k] += dy.as<double>()[to] * x.as<double>()[from];
  });
  for (int64_t i = 0; i < dy.size(); ++i) db.as<double>()[i % db.size()] += dy.as<double>()[i];
}

}  // namespace
}  // namespace infinity
