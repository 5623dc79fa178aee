#include "cuda/map.cuh"
#include "cuda/math.cuh"
#include "cuda/walk.cuh"
#include "ops/elementwise/elementwise.h"

namespace infinity::cuda {
namespace {

// ---- broadcasting: an operand moves along the last axis of the walk, a pack at a time, or stands still

template <int N, class T, int Ins, class I, class F>
__global__ void __launch_bounds__(kMapThreads)
    broadcastKernel(Pointers<const T, Ins> in, T* out, const __grid_constant__ Walk<I, Ins> walk, I packs, F f) {
  const int last = walk.rank - 1;
  for (I i = static_cast<I>(blockIdx.x) * kMapThreads + threadIdx.x; i < packs; i += gridDim.x * kMapThreads) {
    I at[Ins];
    walk.seek(i, at);
    Pack<T, N> x[Ins], y;
#pragma unroll
    for (int k = 0; k < Ins; ++k) {
      if (walk.stride[k][last]) {
        x[k] = loadPack<N>(in.at[k] + at[k]);
      } else {
        const T still = in.at[k][at[k]];
#pragma unroll
        for (int e = 0; e < N; ++e) x[k].v[e] = still;
      }
    }
#pragma unroll
    for (int e = 0; e < N; ++e) {
      T from[Ins], to[1];
#pragma unroll
      for (int k = 0; k < Ins; ++k) from[k] = x[k].v[e];
      f(from, to);
      y.v[e] = to[0];
    }
    storePack(out + static_cast<size_t>(i) * N, y);
  }
}

// Whether every row of every operand that moves starts where a pack may.
template <class T, int Ins>
bool packable(const BroadcastWalk<Ins>& walk, const Pointers<const T, Ins>& in, const T* out) {
  constexpr int n = kPerPack<T>;
  if (walk.cols() % n != 0 || !aligned(out, sizeof(T) * n)) return false;
  for (int k = 0; k < Ins; ++k) {
    if (walk.stride[k][walk.rank - 1] == 0) continue;
    if (!aligned(in.at[k], sizeof(T) * n)) return false;
    for (int axis = 0; axis + 1 < walk.rank; ++axis)
      if (walk.stride[k][axis] % n != 0) return false;
  }
  return true;
}

template <int N, class T, int Ins, class F>
void launchBroadcast(const KernelArgs& a, const char* name, const BroadcastWalk<Ins>& shape,
                     const Pointers<const T, Ins>& in, const F& f) {
  const int64_t n = a.out[0].size();
  withIndex(n, [&](auto index) {
    using I = decltype(index);
    Walk<I, Ins> walk;
    walk.rank = shape.rank;
    for (int axis = 0; axis < shape.rank; ++axis) {
      const int perStep = axis == shape.rank - 1 ? N : 1;
      walk.extent[axis] = Divisor<I>(shape.extent[axis] / perStep);
      for (int k = 0; k < Ins; ++k) walk.stride[k][axis] = static_cast<I>(shape.stride[k][axis] * perStep);
    }
    launch(a, name, broadcastKernel<N, T, Ins, I, F>, overElements(a, n, N, kMapThreads), in, a.out[0].as<T>(), walk,
           static_cast<I>(n / N), f);
  });
}

template <class T, int Ins, class F>
void broadcast(const KernelArgs& a, const char* name, const F& f) {
  const TensorView& out = a.out[0];
  const auto in = pointersOf<const T, Ins>(a.in);
  bool whole = true;
  for (int k = 0; k < Ins; ++k) whole = whole && a.in[k].size() == out.size();
  if (whole) return map(a, name, in, pointersOf<T, 1>(a.out), out.size(), f);
  const BroadcastWalk<Ins> walk(a.in, out);
  if (packable(walk, in, out.as<T>()))
    launchBroadcast<kPerPack<T>>(a, name, walk, in, f);
  else
    launchBroadcast<1>(a, name, walk, in, f);
}

// ---- the functions

struct Same {
  __device__ float operator()(float x) const { return x; }
};
struct Add {
  __device__ float operator()(float x, float y) const { return x + y; }
};
struct Sub {
  __device__ float operator()(float x, float y) const { return x - y; }
};
struct Mul {
  __device__ float operator()(float x, float y) const { return x * y; }
};
struct Scale {
  ScaleParams p;
  __device__ float operator()(float x) const { return x * p.factor; }
};
struct AddScalar {
  AddScalarParams p;
  __device__ float operator()(float x) const { return x + p.value; }
};
// Comparisons are written so that NaN passes through.
struct Clamp {
  ClampParams p;
  __device__ float operator()(float x) const {
    const float raised = x < p.lo ? p.lo : x;
    return raised > p.hi ? p.hi : raised;
  }
};
struct ClampBackward {
  ClampParams p;
  __device__ float operator()(float gy, float x) const { return x < p.lo || x > p.hi ? 0.0f : gy; }
};
struct Exp {
  __device__ float operator()(float x) const { return expf(x); }
};
struct Abs {
  __device__ float operator()(float x) const { return fabsf(x); }
};
// The gradient at 0 is 0.
struct AbsBackward {
  __device__ float operator()(float gy, float x) const { return x > 0 ? gy : x < 0 ? -gy : 0.0f; }
};
struct Square {
  __device__ float operator()(float x) const { return x * x; }
};
struct SquareBackward {
  __device__ float operator()(float gy, float x) const { return gy * (x + x); }
};
struct Sigmoid {
  __device__ float operator()(float x) const { return sigmoid(x); }
};
// From the output: y(1 - y).
struct SigmoidBackward {
  __device__ float operator()(float gy, float y) const { return gy * (y * (1.0f - y)); }
};
struct Gelu {
  __device__ float operator()(float x) const { return gelu(x); }
};
struct GeluBackward {
  __device__ float operator()(float gy, float x) const { return gy * geluSlope(x); }
};
struct Silu {
  __device__ float operator()(float x) const { return silu(x); }
};
struct SiluBackward {
  __device__ float operator()(float gy, float x) const { return gy * siluSlope(x); }
};
struct Swiglu {
  __device__ float operator()(float gate, float x) const { return silu(gate) * x; }
};
// in: gy, gate, x; out: the gradients of gate and x.
struct SwigluBackward {
  template <class T>
  __device__ void operator()(const T (&x)[3], T (&y)[2]) const {
    const float gy = toFloat(x[0]), gate = toFloat(x[1]);
    y[0] = fromFloat<T>(gy * toFloat(x[2]) * siluSlope(gate));
    y[1] = fromFloat<T>(gy * silu(gate));
  }
};

// ---- the ops

template <class F, int Ins>
void broadcastOp(const KernelArgs& a, const char* name) {
  withElement(a.out[0].dtype, [&](auto element) { broadcast<decltype(element), Ins>(a, name, InFloat<F>{}); });
}

template <int Ins, class F>
void mapOp(const KernelArgs& a, const char* name, const F& f) {
  withElement(a.out[0].dtype, [&](auto element) {
    using T = decltype(element);
    map(a, name, pointersOf<const T, Ins>(a.in), pointersOf<T, 1>(a.out), a.out[0].size(), InFloat<F>{f});
  });
}

void launchAdd(const KernelArgs& a) { broadcastOp<Add, 2>(a, "add"); }
void launchSub(const KernelArgs& a) { broadcastOp<Sub, 2>(a, "sub"); }
void launchMul(const KernelArgs& a) { broadcastOp<Mul, 2>(a, "mul"); }
void launchBroadcastTo(const KernelArgs& a) { broadcastOp<Same, 1>(a, "broadcast_to"); }
void launchScale(const KernelArgs& a) { mapOp<1>(a, "scale", Scale{a.paramsAs<ScaleParams>()}); }
void launchAddScalar(const KernelArgs& a) { mapOp<1>(a, "add_scalar", AddScalar{a.paramsAs<AddScalarParams>()}); }
void launchClamp(const KernelArgs& a) { mapOp<1>(a, "clamp", Clamp{a.paramsAs<ClampParams>()}); }
void launchClampBackward(const KernelArgs& a) {
  mapOp<2>(a, "clamp_backward", ClampBackward{a.paramsAs<ClampParams>()});
}
void launchExp(const KernelArgs& a) { mapOp<1>(a, "exp", Exp{}); }
void launchAbs(const KernelArgs& a) { mapOp<1>(a, "abs", Abs{}); }
void launchAbsBackward(const KernelArgs& a) { mapOp<2>(a, "abs_backward", AbsBackward{}); }
void launchSquare(const KernelArgs& a) { mapOp<1>(a, "square", Square{}); }
void launchSquareBackward(const KernelArgs& a) { mapOp<2>(a, "square_backward", SquareBackward{}); }
void launchSigmoid(const KernelArgs& a) { mapOp<1>(a, "sigmoid", Sigmoid{}); }
void launchSigmoidBackward(const KernelArgs& a) { mapOp<2>(a, "sigmoid_backward", SigmoidBackward{}); }
void launchGelu(const KernelArgs& a) { mapOp<1>(a, "gelu", Gelu{}); }
void launchGeluBackward(const KernelArgs& a) { mapOp<2>(a, "gelu_backward", GeluBackward{}); }
void launchSilu(const KernelArgs& a) { mapOp<1>(a, "silu", Silu{}); }
void launchSiluBackward(const KernelArgs& a) { mapOp<2>(a, "silu_backward", SiluBackward{}); }
void launchSwiglu(const KernelArgs& a) { mapOp<2>(a, "swiglu", Swiglu{}); }
void launchSwigluBackward(const KernelArgs& a) {
  withElement(a.out[0].dtype, [&](auto element) {
    using T = decltype(element);
    map(a, "swiglu_backward", pointersOf<const T, 3>(a.in), pointersOf<T, 2>(a.out), a.out[0].size(), SwigluBackward{});
  });
}

constexpr AcceptFn kUnary = acceptOneFloat<1, 1>, kBinary = acceptOneFloat<2, 1>;

}  // namespace

INFINITY_CUDA_KERNEL(add, launchAdd, nullptr, kBinary);
INFINITY_CUDA_KERNEL(sub, launchSub, nullptr, kBinary);
INFINITY_CUDA_KERNEL(mul, launchMul, nullptr, kBinary);
INFINITY_CUDA_KERNEL(broadcast_to, launchBroadcastTo, nullptr, kUnary);
INFINITY_CUDA_KERNEL(scale, launchScale, nullptr, kUnary);
INFINITY_CUDA_KERNEL(add_scalar, launchAddScalar, nullptr, kUnary);
INFINITY_CUDA_KERNEL(clamp, launchClamp, nullptr, kUnary);
INFINITY_CUDA_KERNEL(clamp_backward, launchClampBackward, nullptr, kBinary);
INFINITY_CUDA_KERNEL(exp, launchExp, nullptr, kUnary);
INFINITY_CUDA_KERNEL(abs, launchAbs, nullptr, kUnary);
INFINITY_CUDA_KERNEL(abs_backward, launchAbsBackward, nullptr, kBinary);
INFINITY_CUDA_KERNEL(square, launchSquare, nullptr, kUnary);
INFINITY_CUDA_KERNEL(square_backward, launchSquareBackward, nullptr, kBinary);
INFINITY_CUDA_KERNEL(sigmoid, launchSigmoid, nullptr, kUnary);
INFINITY_CUDA_KERNEL(sigmoid_backward, launchSigmoidBackward, nullptr, kBinary);
INFINITY_CUDA_KERNEL(gelu, launchGelu, nullptr, kUnary);
INFINITY_CUDA_KERNEL(gelu_backward, launchGeluBackward, nullptr, kBinary);
INFINITY_CUDA_KERNEL(silu, launchSilu, nullptr, kUnary);
INFINITY_CUDA_KERNEL(silu_backward, launchSiluBackward, nullptr, kBinary);
INFINITY_CUDA_KERNEL(swiglu, launchSwiglu, nullptr, kBinary);
INFINITY_CUDA_KERNEL(swiglu_backward, launchSwigluBackward, nullptr, (acceptOneFloat<3, 2>));

}  // namespace infinity::cuda
