#include "ops/bit_head/bit_head.h"
#include "ops/bit_head/cuda_product.cuh"
#include "ops/bits/bit.cuh"
#include "ops/bits/draws.cuh"
#include "ops/reduce/cuda_rows.cuh"

namespace infinity::cuda {
namespace {

HeadOperands operandsOf(const KernelArgs& a, int64_t rows, int64_t D) {
  const int64_t K = a.in[0].cols();
  return {a.in[0].data, a.in[1].data, Numbers(a.in[2]), nullptr, 1.0f, rows, static_cast<int>(K), static_cast<int>(D)};
}

// ---- sampling

struct SampleTargets {
  const float* draws;
  const uint32_t* keys;
  uint8_t* bits;
  float* prob0;  // or null, as the others
  uint8_t* packed;
  Numbers codes;
  float magnitude;
  uint32_t* fault;
  int64_t perImage;  // tokens
  const SampleChoice* choice;
  BitSampleParams p;
};

template <class Gaps>
__global__ void __launch_bounds__(kHeadThreads) bitHeadSampleKernel(HeadOperands h, SampleTargets to) {
  __shared__ float gaps[Gaps::floats];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * Gaps::rows;
  const int column = static_cast<int>(blockIdx.y) * Gaps::columns;
  const SampleChoice by = *to.choice;
  h.guidance = by.guidance;
  Gaps::gaps(h, first, column, gaps);
  // Four bits a thread; two neighbours make a byte.
  constexpr int quads = Gaps::columns / 4;
  for (int start = 0; start < Gaps::rows * quads; start += kHeadThreads) {
    const int i = start + static_cast<int>(threadIdx.x), r = i / quads, c = i % quads * 4;
    const int64_t row = first + r;
    const int j = column + c, count = h.D - j;
    unsigned nibble = 0;
    const bool mine = i < Gaps::rows * quads && row < h.rows && count > 0;
    if (mine) {
      const int64_t image = row / to.perImage, element = (row - image * to.perImage) * h.D + j, at = row * h.D + j;
      float u[4], zero[4], code[4];
      uint8_t bit[4];
      uniforms(to.draws, to.keys, image, to.perImage * h.D, element, count, to.p.scale, to.p.stream, u);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const DrawnBit drawn =
            drawBit(Gaps::row(gaps, 0, r)[c + k] * by.inverseTau, u[k], to.p.greedy != 0, by.threshold);
        if (k < count && drawn.prob0 != drawn.prob0) atomicOr(to.fault, kNotANumber);
        zero[k] = drawn.prob0;
        bit[k] = drawn.bit;
        code[k] = drawn.bit ? to.magnitude : -to.magnitude;
        if (k < count) nibble |= static_cast<unsigned>(drawn.bit) << (3 - k);
      }
      storeUpTo(to.bits + at, count, bit);
      if (to.prob0) storeUpTo(to.prob0 + at, count, zero);
      if (to.codes) to.codes.store(at, count, code);
    }
    const unsigned other = __shfl_xor_sync(kAllLanes, nibble, 1);
    if (mine && to.packed && c % 8 == 0)
      to.packed[row * ((h.D + 7) / 8) + j / 8] = static_cast<uint8_t>(nibble << 4 | other);
  }
}

void launchBitHeadSample(const KernelArgs& a) {
  const auto& p = a.paramsAs<BitHeadSampleParams>();
  const TensorView& bits = a.out[0];
  HeadOperands h = operandsOf(a, bits.rows(), bits.cols());
  if (guided(a.in[0], bits)) h.other = a.in[0].as<char>() + a.in[0].bytes() / 2;
  const TensorView none;
  const SampleTargets to = {a.in[3].as<float>(),
                            a.in[4].as<uint32_t>(),
                            bits.as<uint8_t>(),
                            isFloating(a.out[1]) ? a.out[1].as<float>() : nullptr,
                            wanted(a.out[2], bits) ? a.out[2].as<uint8_t>() : nullptr,
                            Numbers(isFloating(a.out[3]) ? a.out[3] : none),
                            codeMagnitude<float>(p.codeBits),
                            a.fault,
                            bits.rows() / bits.dims[0],
                            a.in[5].as<SampleChoice>(),
                            p.sample};
  const auto sample = [&](auto gaps) {
    using Gaps = decltype(gaps);
    const dim3 grid(static_cast<unsigned>(ceilDiv(h.rows, Gaps::rows)),
                    static_cast<unsigned>(ceilDiv(h.D, Gaps::columns)));
    launch(a, "bit_head_sample", bitHeadSampleKernel<Gaps>, {grid, dim3(kHeadThreads)}, h, to);
  };
  h.other ? withGaps<true>(a, h, sample) : withGaps<false>(a, h, sample);
}

bool acceptHead(const TensorView* in) { return isStored(in[0]) && isStored(in[1]) && (!in[2] || isStored(in[2])); }
bool acceptBitHeadSample(const TensorView* in, const TensorView* out) {
  return acceptHead(in) && isF32(in[3]) && (!isFloating(out[1]) || isF32(out[1])) &&
         (!isFloating(out[3]) || isStored(out[3]));
}

// ---- loss

constexpr int kLossLanes = 8;   // a token
constexpr int kLossGroup = 16;  // tokens a partial sum: its order depends on their number alone

struct LossTargets {
  const uint8_t* labels;
  int labelBytes;  // of a token
  const float* weight;
  int64_t weights;
  Numbers grad;
  float *perToken, *correct, *partial;
  BitLossParams p;
};

template <class Gaps>
__global__ void __launch_bounds__(kHeadThreads) bitHeadLossKernel(HeadOperands h, LossTargets to) {
  static_assert(Gaps::rows % kLossGroup == 0 && Gaps::rows * kLossLanes <= kHeadThreads, "a group is inside a block");
  __shared__ float gaps[Gaps::floats], weighted[Gaps::rows];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * Gaps::rows;
  const int r = static_cast<int>(threadIdx.x) / kLossLanes, lane = static_cast<int>(threadIdx.x) % kLossLanes;
  const int64_t row = first + r;
  const bool mine = r < Gaps::rows && row < h.rows;
  const float perRepeat = static_cast<float>(to.weights) / static_cast<float>(h.rows), half = to.p.smoothing / 2;
  const float w = mine ? (to.weight ? to.weight[row % to.weights] : 1.0f) * perRepeat : 0.0f;
  float total = 0, hits = 0;
  for (int column = 0; column < h.D; column += Gaps::columns) {
    Gaps::gaps(h, first, column, gaps);
    for (int c = lane * 4; mine && c < Gaps::columns && column + c < h.D; c += kLossLanes * 4) {
      const int count = h.D - column - c;
      const int64_t at = row * h.D + column + c;
      const unsigned four = fourLabels(to.labels + row * to.labelBytes, column + c);
      float slope[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const BitTerm term = bitTerm(Gaps::row(gaps, 0, r)[c + k], four >> (3 - k) & 1, half);
        slope[k] = w * to.p.bitFactor * term.slope;
        if (k < count) total += term.loss, hits += term.hit;
      }
      to.grad.store(at, count, slope);
    }
    __syncthreads();
  }
  total = warpReduce<kLossLanes>(total) * to.p.bitFactor;
  hits = warpReduce<kLossLanes>(hits);
  if (lane == 0 && r < Gaps::rows) weighted[r] = total * w;
  if (mine && lane == 0) {
    to.perToken[row] = total;
    to.correct[row] = hits;
  }
  __syncthreads();
  const int group = static_cast<int>(threadIdx.x);
  if (group >= Gaps::rows / kLossGroup || first + group * kLossGroup >= h.rows) return;
  float sum = 0;
  for (int i = 0; i < kLossGroup; ++i) sum += weighted[group * kLossGroup + i];
  to.partial[first / kLossGroup + group] = sum;
}

size_t bitHeadLossPlan(const KernelArgs& a) {
  return static_cast<size_t>(ceilDiv(a.out[1].rows(), kLossGroup)) * sizeof(float);
}

void launchBitHeadLoss(const KernelArgs& a) {
  const HeadOperands h = operandsOf(a, a.out[1].rows(), a.out[1].cols());
  const LossTargets to = {a.in[3].as<uint8_t>(),      static_cast<int>(a.in[3].cols()),
                          a.in[4].as<float>(),        a.in[4] ? a.in[4].size() : 1,
                          Numbers(a.out[1]),          a.out[2].as<float>(),
                          a.out[3].as<float>(),       a.scratchAs<float>(),
                          a.paramsAs<BitLossParams>()};
  withGaps<false>(a, h, [&](auto gaps) {
    using Gaps = decltype(gaps);
    launch(a, "bit_head_loss", bitHeadLossKernel<Gaps>,
           {dim3(static_cast<unsigned>(ceilDiv(h.rows, Gaps::rows))), dim3(kHeadThreads)}, h, to);
  });
  launchWholeRows(a, "bit_head_loss: total", to.partial, 1, ceilDiv(h.rows, kLossGroup), AddTerm{},
                  WriteQuotient<float>{a.out[0].as<float>(), 1});
}

bool acceptBitHeadLoss(const TensorView* in, const TensorView* out) {
  return acceptHead(in) && isF32(in[4]) && isF32(out[0]) && isStored(out[1]) && isF32(out[2]) && isF32(out[3]);
}

}  // namespace

INFINITY_CUDA_KERNEL(bit_head_sample, launchBitHeadSample, nullptr, acceptBitHeadSample);
INFINITY_CUDA_KERNEL(bit_head_loss, launchBitHeadLoss, bitHeadLossPlan, acceptBitHeadLoss);

}  // namespace infinity::cuda
