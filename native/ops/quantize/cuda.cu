#include "cuda/ragged.cuh"
#include "ops/quantize/cuda_factorised.cuh"
#include "ops/quantize/cuda_joint.cuh"

namespace infinity::cuda {
namespace {

constexpr int kThreads = 256;

// ---- rows of unit length: `Lanes` neighbouring lanes share a row, four elements at a time

template <int Lanes, class T>
__device__ __forceinline__ float rowDot(const T* x, const T* y, int d, int lane) {
  float sum = 0;
  for (int j = lane * 4; j < d; j += Lanes * 4) {
    float p[4], q[4];
    loadFloats(x + j, d - j, p);
    loadFloats(y + j, d - j, q);
#pragma unroll
    for (int k = 0; k < 4; ++k) sum = fmaf(p[k], q[k], sum);
  }
  return warpReduce<Lanes>(sum);
}

// Lanes of a row that does not exist join in with d = 0: the warp stays together.
template <int Lanes, class F>
__device__ __forceinline__ void overRows(int64_t rows, int d, const F& body) {
  constexpr int perBlock = kThreads / Lanes;
  const int lane = static_cast<int>(threadIdx.x) % Lanes;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * perBlock; first < rows;
       first += static_cast<int64_t>(gridDim.x) * perBlock) {
    const int64_t row = first + threadIdx.x / Lanes;
    body(row < rows ? row : 0, row < rows ? d : 0, lane);
  }
}

template <int Lanes, class T>
__global__ void __launch_bounds__(kThreads) l2NormalizeKernel(const T* x, T* z, int64_t rows, int d) {
  overRows<Lanes>(rows, d, [&](int64_t row, int n, int lane) {
    const int64_t at = row * d;
    const float norm = fmaxf(sqrtf(rowDot<Lanes>(x + at, x + at, n, lane)), static_cast<float>(kNormFloor));
    for (int j = lane * 4; j < n; j += Lanes * 4) {
      float v[4];
      loadFloats(x + at + j, n - j, v);
#pragma unroll
      for (int k = 0; k < 4; ++k) v[k] /= norm;
      storeFloats(z + at + j, n - j, v);
    }
  });
}

// dx = (dz − z·⟨z, dz⟩)/‖x‖; below the floor the norm is a constant.
template <int Lanes, class T>
__global__ void __launch_bounds__(kThreads)
    l2NormalizeBackwardKernel(const T* gz, const T* x, T* gx, int64_t rows, int d) {
  overRows<Lanes>(rows, d, [&](int64_t row, int n, int lane) {
    const int64_t at = row * d;
    const float floor = static_cast<float>(kNormFloor);
    const float length = sqrtf(rowDot<Lanes>(x + at, x + at, n, lane)), norm = fmaxf(length, floor);
    const float product = rowDot<Lanes>(gz + at, x + at, n, lane);
    const float along = length < floor ? 0.0f : product / norm / norm;
    for (int j = lane * 4; j < n; j += Lanes * 4) {
      float v[4], g[4];
      loadFloats(x + at + j, n - j, v);
      loadFloats(gz + at + j, n - j, g);
#pragma unroll
      for (int k = 0; k < 4; ++k) g[k] = fmaf(-along, v[k], g[k]) / norm;
      storeFloats(gx + at + j, n - j, g);
    }
  });
}

// Calls f(T{}, lanes) with the lanes a row: its length alone decides, and with it the order of the sums.
template <class F>
void overLanes(const TensorView& x, const F& f) {
  withElement(x.dtype, [&](auto element) {
    if (x.cols() <= 64)
      f(element, std::integral_constant<int, 8>{});
    else
      f(element, std::integral_constant<int, 32>{});
  });
}

void launchL2Normalize(const KernelArgs& a) {
  const int64_t rows = a.in[0].rows();
  const int d = static_cast<int>(a.in[0].cols());
  overLanes(a.in[0], [&](auto element, auto lanes) {
    using T = decltype(element);
    constexpr int n = decltype(lanes)::value;
    launch(a, "l2_normalize", l2NormalizeKernel<n, T>, overElements(a, rows * n, 1, kThreads), a.in[0].as<T>(),
           a.out[0].as<T>(), rows, d);
  });
}

void launchL2NormalizeBackward(const KernelArgs& a) {
  const int64_t rows = a.in[0].rows();
  const int d = static_cast<int>(a.in[0].cols());
  overLanes(a.in[0], [&](auto element, auto lanes) {
    using T = decltype(element);
    constexpr int n = decltype(lanes)::value;
    launch(a, "l2_normalize_backward", l2NormalizeBackwardKernel<n, T>, overElements(a, rows * n, 1, kThreads),
           a.in[0].as<T>(), a.in[1].as<T>(), a.out[0].as<T>(), rows, d);
  });
}

// ---- signs

constexpr int kPerThread = 8;

template <class T>
__global__ void signQuantizeKernel(const T* z, T* codes, uint8_t* bits, int64_t n, float magnitude) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kPerThread;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kPerThread; i < n; i += step) {
    const int count = n - i < kPerThread ? static_cast<int>(n - i) : kPerThread;
    float v[kPerThread];
    uint8_t bit[kPerThread];
    loadFloats(z + i, count, v);
#pragma unroll
    for (int k = 0; k < kPerThread; ++k) {
      bit[k] = v[k] > 0;
      v[k] = signOf(v[k], magnitude);
    }
    storeFloats(codes + i, count, v);
    storeUpTo(bits + i, count, bit);
  }
}

void launchSignQuantize(const KernelArgs& a) {
  const int64_t n = a.in[0].size();
  withElement(a.in[0].dtype, [&](auto element) {
    using T = decltype(element);
    launch(a, "sign_quantize", signQuantizeKernel<T>, overElements(a, n, kPerThread, kThreads), a.in[0].as<T>(),
           a.out[0].as<T>(), a.out[1].as<uint8_t>(), n, a.paramsAs<SignQuantizeParams>().magnitude);
  });
}

bool acceptUnary(const TensorView* in, const TensorView* out) { return isStored(in[0]) && out[0].dtype == in[0].dtype; }
bool acceptBinary(const TensorView* in, const TensorView* out) {
  return acceptUnary(in, out) && in[1].dtype == in[0].dtype;
}
// The penalties themselves, what they keep for the gradient, and their cotangents are f32.
bool acceptPenalties(const TensorView* in, const TensorView* out) {
  return isStored(in[0]) && isF32(out[0]) && isF32(out[1]) && isF32(out[2]) && isF32(out[3]);
}
bool acceptPenaltiesBackward(const TensorView* in, const TensorView* out) {
  return acceptUnary(in, out) && isF32(in[1]) && isF32(in[2]) && isF32(in[3]) && isF32(in[4]);
}

}  // namespace

INFINITY_CUDA_KERNEL(l2_normalize, launchL2Normalize, nullptr, acceptUnary);
INFINITY_CUDA_KERNEL(l2_normalize_backward, launchL2NormalizeBackward, nullptr, acceptBinary);
INFINITY_CUDA_KERNEL(sign_quantize, launchSignQuantize, nullptr, acceptUnary);
INFINITY_CUDA_KERNEL(bit_penalties, launchBitPenalties, bitPenaltiesPlan, acceptPenalties);
INFINITY_CUDA_KERNEL(bit_penalties_backward, launchBitPenaltiesBackward, nullptr, acceptPenaltiesBackward);
INFINITY_CUDA_KERNEL(joint_penalties, launchJointPenalties, jointPenaltiesPlan, acceptPenalties);
INFINITY_CUDA_KERNEL(joint_penalties_backward, launchJointPenaltiesBackward, jointBackwardPlan,
                     acceptPenaltiesBackward);

}  // namespace infinity::cuda
