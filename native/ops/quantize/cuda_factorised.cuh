// Penalties of BSQ: each bit is a two-point distribution of its own.
//
// A block holds `width` channels (a power of two) and as many lanes of rows beside each other as fit; it walks
// `perBlock` rows. How rows are cut depends on their number alone, and with it the order of every sum.
#pragma once
#include "cuda/math.cuh"
#include "ops/quantize/quantize.h"
#include "ops/reduce/cuda_rows.cuh"

namespace infinity::cuda {
namespace {

constexpr int kPenaltyThreads = 256;

__device__ __forceinline__ float signOf(float x, float magnitude) { return x > 0 ? magnitude : -magnitude; }

// Probabilities of both values of a bit with this logit, each with all its digits.
struct BitOdds {
  float minus, plus;
};
__device__ __forceinline__ BitOdds oddsOf(float logit) {
  const float e = expf(-fabsf(logit)), more = 1.0f / (1.0f + e), less = e * more;
  return logit > 0 ? BitOdds{less, more} : BitOdds{more, less};
}

__device__ __forceinline__ float entropyTerm(float p) { return -p * logf(p + static_cast<float>(kBitLogOffset)); }
// Derivative of −entropyTerm.
__device__ __forceinline__ float entropySlope(float p) {
  const float q = p + static_cast<float>(kBitLogOffset);
  return logf(q) + p / q;
}

struct PenaltyGrid {
  int64_t rows, perBlock;
  int d, width, tiles, blocks;

  explicit PenaltyGrid(const TensorView& z)
      : rows(z.rows()), perBlock(ceilDiv(rows, 1024)), d(static_cast<int>(z.cols())), width(1) {
    if (perBlock < 64) perBlock = 64;
    while (width < d && width < kPenaltyThreads) width *= 2;
    tiles = static_cast<int>(ceilDiv(d, width));
    blocks = static_cast<int>(ceilDiv(rows, perBlock));
  }
  LaunchShape launch() const {
    return {dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(tiles)), dim3(kPenaltyThreads)};
  }

  // In scratch, a run of `blocks` partial sums for each: channels at −1, channels at +1, tiles of entropy and of
  // distance.
  int64_t partials() const { return static_cast<int64_t>(2 * d + 2 * tiles) * blocks; }
  __device__ __forceinline__ float* minus(float* partial, int j) const {
    return partial + static_cast<int64_t>(j) * blocks;
  }
  __device__ __forceinline__ float* plus(float* partial, int j) const { return minus(partial, d + j); }
  __host__ __device__ __forceinline__ float* entropy(float* partial) const {
    return partial + static_cast<int64_t>(2 * d) * blocks;
  }
  __host__ __device__ __forceinline__ float* distance(float* partial) const {
    return partial + static_cast<int64_t>(2 * d + tiles) * blocks;
  }
};

template <class T>
__global__ void __launch_bounds__(kPenaltyThreads)
    bitPenaltiesKernel(const T* z, PenaltyGrid grid, PenaltyParams p, float* partial) {
  __shared__ float columns[2][kPenaltyThreads], slots[kPenaltyThreads / kWarp];
  const int channel = static_cast<int>(threadIdx.x) % grid.width, side = kPenaltyThreads / grid.width;
  const int j = static_cast<int>(blockIdx.y) * grid.width + channel;
  const int64_t begin = blockIdx.x * grid.perBlock, limit = begin + grid.perBlock;
  const int64_t end = j >= grid.d ? begin : limit < grid.rows ? limit : grid.rows;
  float minus = 0, plus = 0, entropy = 0, distance = 0;
  for (int64_t r = begin + threadIdx.x / grid.width; r < end; r += side) {
    const float x = toFloat(z[r * grid.d + j]), off = x - signOf(x, p.magnitude);
    const BitOdds odds = oddsOf(p.logitScale * x);
    minus += odds.minus;
    plus += odds.plus;
    entropy += entropyTerm(odds.minus) + entropyTerm(odds.plus);
    distance = fmaf(off, off, distance);
  }
  columns[0][threadIdx.x] = minus;
  columns[1][threadIdx.x] = plus;
  entropy = blockReduce<kPenaltyThreads>(entropy, slots);
  distance = blockReduce<kPenaltyThreads>(distance, slots);
  for (int half = kPenaltyThreads / 2; half >= grid.width; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) {
      columns[0][threadIdx.x] += columns[0][threadIdx.x + half];
      columns[1][threadIdx.x] += columns[1][threadIdx.x + half];
    }
  }
  if (static_cast<int>(threadIdx.x) < grid.width && j < grid.d) {
    grid.minus(partial, j)[blockIdx.x] = columns[0][threadIdx.x];
    grid.plus(partial, j)[blockIdx.x] = columns[1][threadIdx.x];
  }
  if (threadIdx.x == 0) {
    grid.entropy(partial)[blockIdx.y * grid.blocks + blockIdx.x] = entropy;
    grid.distance(partial)[blockIdx.y * grid.blocks + blockIdx.x] = distance;
  }
}

// Mean probabilities [d, 2], a warp a channel, and the entropy of the codebook.
constexpr int kMeanThreads = 1024;
__global__ void __launch_bounds__(kMeanThreads)
    bitMeansKernel(PenaltyGrid grid, float* partial, float* mean, float* codebook) {
  __shared__ float slots[kMeanThreads / kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float entropy = 0;
  for (int j = static_cast<int>(threadIdx.x) / kWarp; j < grid.d; j += kMeanThreads / kWarp) {
    float minus = 0, plus = 0;
    for (int i = lane; i < grid.blocks; i += kWarp) {
      minus += grid.minus(partial, j)[i];
      plus += grid.plus(partial, j)[i];
    }
    minus = warpReduce(minus) / static_cast<float>(grid.rows);
    plus = warpReduce(plus) / static_cast<float>(grid.rows);
    if (lane == 0) {
      mean[2 * j] = minus;
      mean[2 * j + 1] = plus;
      entropy += entropyTerm(minus) + entropyTerm(plus);
    }
  }
  entropy = blockReduce<kMeanThreads>(entropy, slots);
  if (threadIdx.x == 0) *codebook = entropy;
}

// The last step of the two means that are no distribution: their partial sums lie one after the other.
struct WriteMeans {
  float *entropy, *distance;
  float rows, elements;
  __device__ __forceinline__ void operator()(int64_t i, const ExactSum& s) const {
    if (i == 0)
      *entropy = s.value() / rows;
    else
      *distance = s.value() / elements;
  }
};

size_t bitPenaltiesPlan(const KernelArgs& a) {
  return static_cast<size_t>(PenaltyGrid(a.in[0]).partials()) * sizeof(float);
}

// z [..., d] -> per-sample entropy [], codebook entropy [], commitment [], mean probabilities [d, 2] (of −1, of +1).
void launchBitPenalties(const KernelArgs& a) {
  const PenaltyGrid grid(a.in[0]);
  const auto& p = a.paramsAs<PenaltyParams>();
  float* partial = a.scratchAs<float>();
  withElement(a.in[0].dtype, [&](auto element) {
    using T = decltype(element);
    launch(a, "bit_penalties", bitPenaltiesKernel<T>, grid.launch(), a.in[0].as<T>(), grid, p, partial);
  });
  launch(a, "bit_penalties: means", bitMeansKernel, {dim3(1), dim3(kMeanThreads)}, grid, partial, a.out[3].as<float>(),
         a.out[1].as<float>());
  const WriteMeans last = {a.out[0].as<float>(), a.out[2].as<float>(), static_cast<float>(grid.rows),
                           static_cast<float>(grid.rows * grid.d)};
  launchWholeRows(a, "bit_penalties: totals", grid.entropy(partial), 2, static_cast<int64_t>(grid.tiles) * grid.blocks,
                  AddTerm{}, last);
}

__device__ __forceinline__ float cotangent(const float* g) { return g ? *g : 0.0f; }

// z, mean probabilities, cotangents of the three penalties (each may be absent) -> dz
template <class T>
__global__ void __launch_bounds__(kPenaltyThreads)
    bitPenaltiesBackwardKernel(const T* z, const float* mean, const float* ofSample, const float* ofCodebook,
                               const float* ofCommitment, PenaltyGrid grid, PenaltyParams p, T* gz) {
  const int side = kPenaltyThreads / grid.width;
  const int j = static_cast<int>(blockIdx.y) * grid.width + static_cast<int>(threadIdx.x) % grid.width;
  if (j >= grid.d) return;
  const float count = static_cast<float>(grid.rows);
  const float sample = cotangent(ofSample) / count, commit = 2 * cotangent(ofCommitment) / (count * grid.d);
  const float shared = cotangent(ofCodebook) / count * (entropySlope(mean[2 * j]) - entropySlope(mean[2 * j + 1]));
  const int64_t begin = blockIdx.x * grid.perBlock, limit = begin + grid.perBlock;
  const int64_t end = limit < grid.rows ? limit : grid.rows;
  for (int64_t r = begin + threadIdx.x / grid.width; r < end; r += side) {
    const float x = toFloat(z[r * grid.d + j]);
    const BitOdds odds = oddsOf(p.logitScale * x);
    const float own = fmaf(sample, entropySlope(odds.minus) - entropySlope(odds.plus), shared);
    const float slope = p.logitScale * odds.minus * odds.plus * own;
    gz[r * grid.d + j] = fromFloat<T>(fmaf(commit, x - signOf(x, p.magnitude), slope));
  }
}

void launchBitPenaltiesBackward(const KernelArgs& a) {
  const PenaltyGrid grid(a.in[0]);
  withElement(a.in[0].dtype, [&](auto element) {
    using T = decltype(element);
    launch(a, "bit_penalties_backward", bitPenaltiesBackwardKernel<T>, grid.launch(), a.in[0].as<T>(),
           a.in[1].as<float>(), a.in[2].as<float>(), a.in[3].as<float>(), a.in[4].as<float>(), grid,
           a.paramsAs<PenaltyParams>(), a.out[0].as<T>());
  });
}

}  // namespace
}  // namespace infinity::cuda
