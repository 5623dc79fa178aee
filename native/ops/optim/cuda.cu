#include "cuda/map.cuh"
#include "ops/optim/optim.h"
#include "ops/reduce/cuda_rows.cuh"

namespace infinity::cuda {
namespace {

// x: gradient, parameter, first and second moment; y: the last three. Decoupled weight decay comes first, as in
// torch.optim.AdamW.
struct AdamW {
  AdamWParams p;
  const float* factor;  // of the gradient, or null
  __device__ __forceinline__ void operator()(const float (&x)[4], float (&y)[3]) const {
    const float g = factor ? x[0] * __ldg(factor) : x[0];
    const float m = fmaf(p.oneMinusBeta1, g, p.beta1 * x[2]);
    const float v = fmaf(p.oneMinusBeta2 * g, g, p.beta2 * x[3]);
    y[0] = x[1] * p.keep - p.stepSize * (m / (sqrtf(v) / p.rootCorrection + p.eps));
    y[1] = m;
    y[2] = v;
  }
};

// in: gradient, factor [] or none; out, in place: parameter, first and second moment.
void launchAdamW(const KernelArgs& a) {
  const Pointers<float, 3> out = pointersOf<float, 3>(a.out);
  const Pointers<const float, 4> in = {{a.in[0].as<float>(), out.at[0], out.at[1], out.at[2]}};
  map(a, "adamw", in, out, a.in[0].size(), AdamW{a.paramsAs<AdamWParams>(), a.in[1].as<float>()});
}

struct MovingAverage {
  EmaParams p;
  __device__ __forceinline__ void operator()(const float (&x)[2], float (&y)[1]) const {
    y[0] = fmaf(p.oneMinusDecay, x[0], p.decay * x[1]);
  }
};

// in: parameter; out, in place: its moving average.
void launchEma(const KernelArgs& a) {
  const Pointers<const float, 2> in = {{a.in[0].as<float>(), a.out[0].as<float>()}};
  map(a, "ema", in, pointersOf<float, 1>(a.out), a.in[0].size(), MovingAverage{a.paramsAs<EmaParams>()});
}

struct AddSquare {
  __device__ __forceinline__ void operator()(ExactSum& s, float x) const { s.addSquare(x); }
};

size_t sumSquaresPlan(const KernelArgs& a) { return rowSumBytes(1, a.in[0].size()); }

void launchSumSquares(const KernelArgs& a) {
  sumRows(a, "sum_squares", a.in[0].as<const float>(), a.out[0].as<float>(), 1, a.in[0].size(), 1.0f, AddSquare{});
}

// One warp: there is a number a parameter.
__global__ void clipFactorKernel(const float* squares, int64_t n, float maxNorm, float* norm, float* factor) {
  const ExactSum s = warpSum(sumShare<kWarp>(squares, n, false, AddTerm{}));
  if (threadIdx.x != 0) return;
  const float length = sqrtf(s.value()), shrink = maxNorm / (length + 1e-6f);
  *norm = length;
  *factor = shrink > 1.0f ? 1.0f : shrink;
}

// in: sums of squares [n]; out: the norm of all of them together, and min(1, maxNorm / (norm + 1e-6)) as in
// torch.nn.utils.clip_grad_norm_. A NaN stays one.
void launchClipFactor(const KernelArgs& a) {
  launch(a, "clip_factor", clipFactorKernel, {dim3(1), dim3(kWarp)}, a.in[0].as<float>(), a.in[0].size(),
         a.paramsAs<ClipFactorParams>().maxNorm, a.out[0].as<float>(), a.out[1].as<float>());
}

}  // namespace

INFINITY_CUDA_KERNEL(adamw, launchAdamW, nullptr, nullptr);
INFINITY_CUDA_KERNEL(ema, launchEma, nullptr, nullptr);
INFINITY_CUDA_KERNEL(sum_squares, launchSumSquares, sumSquaresPlan, nullptr);
INFINITY_CUDA_KERNEL(clip_factor, launchClipFactor, nullptr, nullptr);

}  // namespace infinity::cuda
