#include "cuda/list.cuh"
#include "ops/optim/optim.h"
#include "ops/reduce/cuda_rows.cuh"

namespace infinity::cuda {
namespace {

// ---- adamw

// Decoupled weight decay comes first, as in torch.optim.AdamW.
__device__ __forceinline__ void update(const AdamWParams& p, float g, float& x, float& m, float& v) {
  m = fmaf(p.oneMinusBeta1, g, p.beta1 * m);
  v = fmaf(p.oneMinusBeta2 * g, g, p.beta2 * v);
  x = x * p.keep - p.stepSize * (m / (sqrtf(v) / p.rootCorrection + p.eps));
}

// Elements of a parameter and of what goes with it. Without a gradient it stays as it is; the average, where there is
// one, is one of what the update leaves.
struct UpdatedTensors {
  const float* gradient;
  float *parameter, *first, *second, *average;

  __device__ __forceinline__ bool packed() const {
    const auto bits = reinterpret_cast<uintptr_t>(gradient) | reinterpret_cast<uintptr_t>(parameter) |
                      reinterpret_cast<uintptr_t>(first) | reinterpret_cast<uintptr_t>(second) |
                      reinterpret_cast<uintptr_t>(average);
    return bits % (4 * sizeof(float)) == 0;
  }

  // N neighbours from element i: all that is needed is under way before the first of it is used.
  template <int N>
  __device__ __forceinline__ void updateAt(int64_t i, const AdamWParams& p, float factor) const {
    Pack<float, N> g, m, v, shadow, x = loadPack<N>(parameter + i);
    if (gradient) {
      g = loadPack<N>(gradient + i);
      m = loadPack<N>(first + i);
      v = loadPack<N>(second + i);
    }
    if (average) shadow = loadPack<N>(average + i);
    if (gradient) {
#pragma unroll
      for (int e = 0; e < N; ++e) update(p, g.v[e] * factor, x.v[e], m.v[e], v.v[e]);
      storePack(parameter + i, x);
      storePack(first + i, m);
      storePack(second + i, v);
    }
    if (average) {
#pragma unroll
      for (int e = 0; e < N; ++e) shadow.v[e] = fmaf(p.oneMinusAverageDecay, x.v[e], p.averageDecay * shadow.v[e]);
      storePack(average + i, shadow);
    }
  }
};

constexpr int kUpdateThreads = 256;
constexpr int64_t kUpdatePiece = 4096;
using UpdateTable = TensorTable<5>;

__global__ void __launch_bounds__(kUpdateThreads)
    adamwKernel(const __grid_constant__ UpdateTable list, const __grid_constant__ AdamWParams p, const float* factor) {
  const int row = list.rowOf(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const int64_t begin = static_cast<int64_t>(blockIdx.x - list.begin(row)) * kUpdatePiece;
  const auto column = [&](int c) {
    auto* pointer = static_cast<float*>(list.at[c][row]);
    return pointer ? pointer + begin : pointer;
  };
  const UpdatedTensors tensors = {column(0), column(1), column(2), column(3), column(4)};
  const float scale = factor ? __ldg(factor) : 1.0f;
  const int64_t left = list.size[row] - begin;
  const int count = static_cast<int>(left < kUpdatePiece ? left : kUpdatePiece);
  const int whole = tensors.packed() ? count / 4 * 4 : 0;
  for (int i = 4 * thread; i < whole; i += 4 * kUpdateThreads) tensors.updateAt<4>(i, p, scale);
  for (int i = whole + thread; i < count; i += kUpdateThreads) tensors.updateAt<1>(i, p, scale);
}

void launchAdamW(const KernelArgs& a) {
  const auto& p = a.paramsAs<AdamWParams>();
  const int64_t n = p.tensors;
  const auto fill = [&](UpdateTable& table, int64_t k) {
    void* const row[] = {a.in[1 + k].data, a.out[k].data, a.out[n + k].data, a.out[2 * n + k].data,
                         p.averaged ? a.out[3 * n + k].data : nullptr};
    return table.add(row, a.out[k].size(), kUpdatePiece);
  };
  forTables<5>(n, fill, [&](const UpdateTable& table, int64_t) {
    launch(a, "adamw", adamwKernel, {dim3(table.pieces()), dim3(kUpdateThreads)}, table, p, a.in[0].as<float>());
  });
}

// ---- sums of squares and the factor

struct AddSquare {
  __device__ __forceinline__ void operator()(ExactSum& s, float x) const { s.addSquare(x); }
};

using SumTable = TensorTable<1>;

__global__ void __launch_bounds__(kRowThreads)
    sumSquaresKernel(const __grid_constant__ SumTable list, ExactSum* partial) {
  __shared__ ExactSum slots[kRowThreads / kWarp];
  const int row = list.rowOf(blockIdx.x);
  const int64_t begin = static_cast<int64_t>(blockIdx.x - list.begin(row)) * kChunk, left = list.size[row] - begin;
  const float* x = static_cast<const float*>(list.at[0][row]) + begin;
  const bool packed = reinterpret_cast<uintptr_t>(x) % (4 * sizeof(float)) == 0;
  const ExactSum s =
      blockSum<kRowThreads>(sumShare<kRowThreads>(x, left < kChunk ? left : kChunk, packed, AddSquare{}), slots);
  if (threadIdx.x == 0) partial[blockIdx.x] = s;
}

// A block a tensor.
__global__ void __launch_bounds__(kRowThreads)
    sumPiecesKernel(const __grid_constant__ SumTable list, const ExactSum* partial, float* squares) {
  __shared__ ExactSum slots[kRowThreads / kWarp];
  const uint32_t row = blockIdx.x, begin = list.begin(row);
  const ExactSum s =
      blockSum<kRowThreads>(sumShare<kRowThreads>(partial + begin, list.end[row] - begin, false, AddTerm{}), slots);
  if (threadIdx.x == 0) squares[row] = s.value();
}

size_t sumSquaresPlan(const KernelArgs& a) {
  int64_t pieces = 0;
  for (uint32_t k = 0; k < a.paramsAs<SumSquaresParams>().tensors; ++k) pieces += chunksOf(a.in[k].size());
  return static_cast<size_t>(pieces) * sizeof(ExactSum);
}

// in: n tensors; out: the sum of the squares of each, [n].
void launchSumSquares(const KernelArgs& a) {
  const auto fill = [&](SumTable& table, int64_t k) { return table.add({a.in[k].data}, a.in[k].size(), kChunk); };
  forTables<1>(a.paramsAs<SumSquaresParams>().tensors, fill, [&](const SumTable& table, int64_t first) {
    auto* partial = a.scratchAs<ExactSum>();
    launch(a, "sum_squares", sumSquaresKernel, {dim3(table.pieces()), dim3(kRowThreads)}, table, partial);
    launch(a, "sum_squares", sumPiecesKernel, {dim3(static_cast<unsigned>(table.rows)), dim3(kRowThreads)}, table,
           partial, a.out[0].as<float>() + first);
  });
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
INFINITY_CUDA_KERNEL(sum_squares, launchSumSquares, sumSquaresPlan, nullptr);
INFINITY_CUDA_KERNEL(clip_factor, launchClipFactor, nullptr, nullptr);

}  // namespace infinity::cuda
