// Penalties of LFQ: one distribution over all 2^d codes, which is a product over the bits.
//
// A code splits into a low part of up to eight bits, which is a thread, and a high part. P(code) is the product of a
// factor of each: no table of codes is ever built, and kHighs codes of a thread stay in its registers.
#pragma once
#include "ops/quantize/cuda_factorised.cuh"

namespace infinity::cuda {
namespace {

constexpr int kJointThreads = 256;  // low parts
constexpr int kHighs = 16;          // high parts a tile
constexpr int kMostBits = 16;

// −p·ln(max(p, floor)), and its derivative.
__device__ __forceinline__ float jointTerm(float p) { return -p * logf(fmaxf(p, static_cast<float>(kJointLogFloor))); }
__device__ __forceinline__ float jointSlope(float p) {
  const float floor = static_cast<float>(kJointLogFloor);
  return -logf(fmaxf(p, floor)) - (p >= floor ? 1.0f : 0.0f);
}

// How codes and rows are cut: by their numbers alone.
struct JointGrid {
  int64_t rows, perChunk;
  int d, lowBits, lows, highs, tiles, chunks;

  explicit JointGrid(const TensorView& z) : rows(z.rows()), d(static_cast<int>(z.cols())) {
    lowBits = d < 8 ? d : 8;
    lows = 1 << lowBits;
    highs = 1 << (d - lowBits);
    tiles = static_cast<int>(ceilDiv(highs, kHighs));
    // Every chunk owns 2^d partial sums: large codebooks have enough tiles to fill the card.
    perChunk = ceilDiv(rows, d > 12 ? 16 : 64);
    if (perChunk < 16) perChunk = 16;
    chunks = static_cast<int>(ceilDiv(rows, perChunk));
  }
  __host__ __device__ __forceinline__ int64_t codes() const { return int64_t{1} << d; }
  __device__ __forceinline__ int highsIn(int tile) const {
    return highs - tile * kHighs < kHighs ? highs - tile * kHighs : kHighs;
  }
};

// The probabilities of the bits of Rows rows, in shared memory; rows beyond `end` hold zeros.
template <int Rows>
struct RowOdds {
  float minus[Rows][kMostBits], plus[Rows][kMostBits];

  // Π over channels [first, last) of P(bit of `code`), channel last − 1 in its least significant bit.
  __device__ __forceinline__ float product(int r, int first, int last, int code) const {
    float p = 1;
    for (int j = last - 1; j >= first; --j, code >>= 1) p *= code & 1 ? plus[r][j] : minus[r][j];
    return p;
  }
};

// Fills `odds` from rows [row, row + Rows) and returns this thread's share of the squared distances to the codes.
template <int Rows, class T>
__device__ __forceinline__ float loadOdds(const T* z, int64_t row, int64_t end, int d, const PenaltyParams& p,
                                          RowOdds<Rows>& odds) {
  float distance = 0;
  for (int i = static_cast<int>(threadIdx.x); i < Rows * d; i += kJointThreads) {
    const int r = i / d, j = i - r * d;
    const bool mine = row + r < end;
    const float x = mine ? toFloat(z[(row + r) * d + j]) : 0.0f, off = mine ? x - signOf(x, p.magnitude) : 0.0f;
    const BitOdds bit = oddsOf(p.logitScale * x);
    odds.minus[r][j] = mine ? bit.minus : 0.0f;
    odds.plus[r][j] = mine ? bit.plus : 0.0f;
    distance = fmaf(off, off, distance);
  }
  return distance;
}

constexpr int kStagedRows = 16;

// Block (tile of high parts, chunk of rows): sums of probabilities, entropies and distances over its rows.
template <class T>
__global__ void __launch_bounds__(kJointThreads)
    jointPenaltiesKernel(const T* z, JointGrid grid, PenaltyParams p, float* sums, float* entropies, float* distances) {
  __shared__ RowOdds<kStagedRows> odds;
  __shared__ float high[kStagedRows][kHighs], slots[kJointThreads / kWarp];
  const int tile = static_cast<int>(blockIdx.x), low = static_cast<int>(threadIdx.x), split = grid.d - grid.lowBits;
  const int here = grid.highsIn(tile);
  const int64_t begin = blockIdx.y * grid.perChunk, limit = begin + grid.perChunk;
  const int64_t end = limit < grid.rows ? limit : grid.rows;
  float sum[kHighs] = {}, entropy = 0, distance = 0;
  for (int64_t row = begin; row < end; row += kStagedRows) {
    const float part = loadOdds(z, row, end, grid.d, p, odds);
    if (tile == 0) distance += part;
    __syncthreads();
    const int r = low / kHighs, h = low % kHighs;
    high[r][h] = h < here ? odds.product(r, 0, split, tile * kHighs + h) : 0.0f;
    __syncthreads();
    const int rows = end - row < kStagedRows ? static_cast<int>(end - row) : kStagedRows;
    for (int s = 0; s < rows; ++s) {
      const float factor = low < grid.lows ? odds.product(s, split, grid.d, low) : 0.0f;
      float ofRow = 0;
#pragma unroll
      for (int i = 0; i < kHighs; ++i) {
        if (i >= here) continue;
        const float probability = factor * high[s][i];
        sum[i] += probability;
        ofRow += jointTerm(probability);
      }
      entropy += ofRow;
    }
    __syncthreads();
  }
  if (low < grid.lows) {
    float* to = sums + blockIdx.y * grid.codes() + static_cast<int64_t>(tile) * kHighs * grid.lows + low;
#pragma unroll
    for (int i = 0; i < kHighs; ++i)
      if (i < here) to[i * grid.lows] = sum[i];
  }
  entropy = blockReduce<kJointThreads>(entropy, slots);
  distance = blockReduce<kJointThreads>(distance, slots);
  if (threadIdx.x == 0) {
    entropies[blockIdx.y * grid.tiles + tile] = entropy;
    distances[blockIdx.y * grid.tiles + tile] = distance;
  }
}

// The averaged distribution, and per block its share of the codebook's entropy.
__global__ void __launch_bounds__(kJointThreads)
    jointMeansKernel(JointGrid grid, const float* sums, float* mean, float* codebook) {
  __shared__ float slots[kJointThreads / kWarp];
  const int64_t code = static_cast<int64_t>(blockIdx.x) * kJointThreads + threadIdx.x;
  float entropy = 0;
  if (code < grid.codes()) {
    float total = 0;
    for (int c = 0; c < grid.chunks; ++c) total += sums[c * grid.codes() + code];
    const float probability = total / static_cast<float>(grid.rows);
    mean[code] = probability;
    entropy = jointTerm(probability);
  }
  entropy = blockReduce<kJointThreads>(entropy, slots);
  if (threadIdx.x == 0) codebook[blockIdx.x] = entropy;
}

// Partial sums: probabilities [chunks][2^d], entropies and distances [chunks][tiles], codebook [blocks of codes].
struct JointPartials {
  float *sums, *entropies, *distances, *codebook, *end;
  int64_t codeBlocks;

  JointPartials(float* at, const JointGrid& grid)
      : sums(at),
        entropies(sums + grid.chunks * grid.codes()),
        distances(entropies + static_cast<int64_t>(grid.chunks) * grid.tiles),
        codebook(distances + static_cast<int64_t>(grid.chunks) * grid.tiles),
        codeBlocks(ceilDiv(grid.codes(), kJointThreads)) {
    end = codebook + codeBlocks;
  }
};

size_t jointPenaltiesPlan(const KernelArgs& a) {
  const JointPartials partials(nullptr, JointGrid(a.in[0]));
  return static_cast<size_t>(reinterpret_cast<uintptr_t>(partials.end));
}

void launchJointPenalties(const KernelArgs& a) {
  const JointGrid grid(a.in[0]);
  const auto& p = a.paramsAs<PenaltyParams>();
  const JointPartials to(a.scratchAs<float>(), grid);
  withElement(a.in[0].dtype, [&](auto element) {
    using T = decltype(element);
    launch(a, "joint_penalties", jointPenaltiesKernel<T>,
           {dim3(static_cast<unsigned>(grid.tiles), static_cast<unsigned>(grid.chunks)), dim3(kJointThreads)},
           a.in[0].as<T>(), grid, p, to.sums, to.entropies, to.distances);
  });
  launch(a, "joint_penalties: means", jointMeansKernel,
         {dim3(static_cast<unsigned>(to.codeBlocks)), dim3(kJointThreads)}, grid, to.sums, a.out[3].as<float>(),
         to.codebook);
  const WriteMeans last = {a.out[0].as<float>(), a.out[2].as<float>(), static_cast<float>(grid.rows),
                           static_cast<float>(grid.rows * grid.d)};
  launchWholeRows(a, "joint_penalties: totals", to.entropies, 2, static_cast<int64_t>(grid.chunks) * grid.tiles,
                  AddTerm{}, last);
  launchWholeRows(a, "joint_penalties: codebook", to.codebook, 1, to.codeBlocks, AddTerm{},
                  WriteQuotient<float>{a.out[1].as<float>(), 1});
}

// What every row's gradient takes from the averaged distribution: its cotangent times the slope, per code.
__global__ void __launch_bounds__(kJointThreads)
    codebookSlopesKernel(const float* mean, const float* ofCodebook, JointGrid grid, float* slopes) {
  const int64_t code = static_cast<int64_t>(blockIdx.x) * kJointThreads + threadIdx.x;
  if (code < grid.codes())
    slopes[code] = cotangent(ofCodebook) / static_cast<float>(grid.rows) * jointSlope(mean[code]);
}

constexpr int kTileBits = 4;  // of a high part inside a tile; the others number the tile
static_assert(kHighs == 1 << kTileBits, "a tile is all values of its bits");
constexpr int kGradientRows = 4;

// A block takes kGradientRows rows through all codes. With w = P·dL/dP of a code, and
// d ln P / d logit_j = bit_j − P(bit_j = 1), the gradient needs Σ w and, for every bit, Σ w over the codes that have
// it.
template <class T>
__global__ void __launch_bounds__(kJointThreads)
    jointPenaltiesBackwardKernel(const T* z, const float* slopes, const float* ofSample, const float* ofCommitment,
                                 JointGrid grid, PenaltyParams p, T* gz) {
  constexpr int warps = kJointThreads / kWarp;
  __shared__ RowOdds<kGradientRows> odds;
  __shared__ float high[kGradientRows][1 << (kMostBits - 8)];
  __shared__ float marginal[kGradientRows][warps][kMostBits], whole[kGradientRows][warps];
  const int low = static_cast<int>(threadIdx.x), lane = low % kWarp, warp = low / kWarp;
  const int split = grid.d - grid.lowBits;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kGradientRows;
  const float count = static_cast<float>(grid.rows), sample = cotangent(ofSample) / count;
  loadOdds(z, row, grid.rows, grid.d, p, odds);
  __syncthreads();
  float factor[kGradientRows];
#pragma unroll
  for (int r = 0; r < kGradientRows; ++r) {
    if (low < grid.highs) high[r][low] = odds.product(r, 0, split, low);
    factor[r] = low < grid.lows ? odds.product(r, split, grid.d, low) : 0.0f;
  }
  __syncthreads();

  float all[kGradientRows] = {}, inTile[kGradientRows][kTileBits] = {}, ofTile[kGradientRows][kTileBits] = {};
  for (int tile = 0; tile < grid.tiles; ++tile) {
    const int here = grid.highsIn(tile);
    float slope[kHighs];
#pragma unroll
    for (int i = 0; i < kHighs; ++i)
      slope[i] = i < here && low < grid.lows ? slopes[(tile * kHighs + i) * grid.lows + low] : 0.0f;
#pragma unroll
    for (int r = 0; r < kGradientRows; ++r) {
      float w[kHighs];
#pragma unroll
      for (int i = 0; i < kHighs; ++i) {
        w[i] = 0;
        if (i >= here) continue;
        const float probability = factor[r] * high[r][tile * kHighs + i];
        w[i] = probability * fmaf(sample, jointSlope(probability), slope[i]);
      }
      // The upper half holds the codes that have the highest bit left; folding it away leaves the others.
#pragma unroll
      for (int b = kTileBits - 1; b >= 0; --b) {
        float upper = 0;
#pragma unroll
        for (int i = 0; i < 1 << b; ++i) {
          upper += w[i + (1 << b)];
          w[i] += w[i + (1 << b)];
        }
        inTile[r][b] += upper;
      }
      all[r] += w[0];
#pragma unroll
      for (int b = 0; b < kTileBits; ++b)
        if (tile >> b & 1) ofTile[r][b] += w[0];
    }
  }

  // Bits of the low part are those of the lane, then of the warp.
#pragma unroll
  for (int r = 0; r < kGradientRows; ++r) {
    float bits[kMostBits];
#pragma unroll
    for (int b = 0; b < 5; ++b) bits[b] = warpReduce(lane >> b & 1 ? all[r] : 0.0f);
    const float total = warpReduce(all[r]);
#pragma unroll
    for (int b = 0; b < 3; ++b) bits[5 + b] = warp >> b & 1 ? total : 0.0f;
#pragma unroll
    for (int b = 0; b < kTileBits; ++b) {
      bits[8 + b] = warpReduce(inTile[r][b]);
      bits[8 + kTileBits + b] = warpReduce(ofTile[r][b]);
    }
    if (lane == 0) {
      whole[r][warp] = total;
#pragma unroll
      for (int b = 0; b < kMostBits; ++b) marginal[r][warp][b] = bits[b];
    }
  }
  __syncthreads();
  const int r = low / kMostBits, j = low % kMostBits;
  if (r >= kGradientRows || j >= grid.d || row + r >= grid.rows) return;
  float withBit = 0, total = 0;
  for (int w = 0; w < warps; ++w) {
    withBit += marginal[r][w][grid.d - 1 - j];
    total += whole[r][w];
  }
  const int64_t at = (row + r) * grid.d + j;
  const float x = toFloat(z[at]), commit = 2 * cotangent(ofCommitment) / (count * grid.d);
  gz[at] = fromFloat<T>(p.logitScale * (withBit - odds.plus[r][j] * total) + commit * (x - signOf(x, p.magnitude)));
}

size_t jointBackwardPlan(const KernelArgs& a) { return sizeof(float) << a.in[0].cols(); }

void launchJointPenaltiesBackward(const KernelArgs& a) {
  const JointGrid grid(a.in[0]);
  float* slopes = a.scratchAs<float>();
  launch(a, "joint_penalties_backward: slopes", codebookSlopesKernel,
         {dim3(static_cast<unsigned>(ceilDiv(grid.codes(), kJointThreads))), dim3(kJointThreads)}, a.in[1].as<float>(),
         a.in[3].as<float>(), grid, slopes);
  withElement(a.in[0].dtype, [&](auto element) {
    using T = decltype(element);
    launch(a, "joint_penalties_backward", jointPenaltiesBackwardKernel<T>,
           {dim3(static_cast<unsigned>(ceilDiv(grid.rows, kGradientRows))), dim3(kJointThreads)}, a.in[0].as<T>(),
           slopes, a.in[2].as<float>(), a.in[4].as<float>(), grid, a.paramsAs<PenaltyParams>(), a.out[0].as<T>());
  });
}

}  // namespace
}  // namespace infinity::cuda
