#include "cuda/ragged.cuh"
#include "ops/reduce/cuda_rows.cuh"

namespace infinity::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 8;

struct Absolute {
  static __device__ __forceinline__ float term(float d) { return fabsf(d); }
  // The gradient at 0 is 0.
  static __device__ __forceinline__ float slope(float d) { return d > 0 ? 1.0f : d < 0 ? -1.0f : 0.0f; }
};
struct Squared {
  static __device__ __forceinline__ float term(float d) { return d * d; }
  static __device__ __forceinline__ float slope(float d) { return 2 * d; }
};

template <class T, class Distance>
__global__ void __launch_bounds__(kThreads) distanceKernel(const T* x, const T* y, int64_t n, float* partial) {
  __shared__ float slots[kThreads / kWarp];
  const int64_t first = blockIdx.x * kChunk;
  const int count = n - first < kChunk ? static_cast<int>(n - first) : static_cast<int>(kChunk);
  float sum = 0;
#pragma unroll 2
  for (int i = static_cast<int>(threadIdx.x) * kPerThread; i < count; i += kThreads * kPerThread) {
    float p[kPerThread], q[kPerThread], part = 0;
    loadFloats(x + first + i, count - i, p);
    loadFloats(y + first + i, count - i, q);
#pragma unroll
    for (int k = 0; k < kPerThread; ++k) part += Distance::term(p[k] - q[k]);
    sum += part;
  }
  sum = blockReduce<kThreads>(sum, slots);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

size_t meanPlan(const KernelArgs& a) { return static_cast<size_t>(chunksOf(a.in[0].size())) * sizeof(float); }

template <class Distance>
void launchMean(const KernelArgs& a) {
  const int64_t n = a.in[0].size(), chunks = chunksOf(n);
  auto* partial = a.scratchAs<float>();
  withElement(a.in[0].dtype, [&](auto element) {
    using T = decltype(element);
    launch(a, "mean_distance", distanceKernel<T, Distance>, {dim3(static_cast<unsigned>(chunks)), dim3(kThreads)},
           a.in[0].as<T>(), a.in[1].as<T>(), n, partial);
  });
  launchWholeRows(a, "mean_distance: total", partial, 1, chunks, AddTerm{},
                  WriteQuotient<float>{a.out[0].as<float>(), static_cast<float>(n)});
}

// cotangent [], x, y -> the gradient of x; that of y is its negative.
template <class T, class Distance>
__global__ void distanceBackwardKernel(const float* cotangent, const T* x, const T* y, int64_t n, float share, T* gx) {
  const float each = *cotangent * share;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kPerThread;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kPerThread; i < n; i += step) {
    const int count = n - i < kPerThread ? static_cast<int>(n - i) : kPerThread;
    float p[kPerThread], q[kPerThread];
    loadFloats(x + i, count, p);
    loadFloats(y + i, count, q);
#pragma unroll
    for (int k = 0; k < kPerThread; ++k) p[k] = Distance::slope(p[k] - q[k]) * each;
    storeFloats(gx + i, count, p);
  }
}

template <class Distance>
void launchMeanBackward(const KernelArgs& a) {
  const int64_t n = a.in[1].size();
  withElement(a.in[1].dtype, [&](auto element) {
    using T = decltype(element);
    launch(a, "mean_distance_backward", distanceBackwardKernel<T, Distance>, overElements(a, n, kPerThread, kThreads),
           a.in[0].as<float>(), a.in[1].as<T>(), a.in[2].as<T>(), n, static_cast<float>(1.0 / static_cast<double>(n)),
           a.out[0].as<T>());
  });
}

bool acceptMean(const TensorView* in, const TensorView* out) {
  return isStored(in[0]) && in[1].dtype == in[0].dtype && isF32(out[0]);
}
bool acceptMeanBackward(const TensorView* in, const TensorView* out) {
  return isF32(in[0]) && isStored(in[1]) && in[2].dtype == in[1].dtype && out[0].dtype == in[1].dtype;
}

}  // namespace

INFINITY_CUDA_KERNEL(l1_loss, launchMean<Absolute>, meanPlan, acceptMean);
INFINITY_CUDA_KERNEL(l1_loss_backward, launchMeanBackward<Absolute>, nullptr, acceptMeanBackward);
INFINITY_CUDA_KERNEL(l2_loss, launchMean<Squared>, meanPlan, acceptMean);
INFINITY_CUDA_KERNEL(l2_loss_backward, launchMeanBackward<Squared>, nullptr, acceptMeanBackward);

}  // namespace infinity::cuda
