#include "cuda/sum.cuh"
#include "ops/bits/bits.h"
#include "ops/bits/draws.cuh"
#include "ops/indices/indices.h"
#include "ops/reduce/cuda_rows.cuh"

namespace infinity::cuda {
namespace {

constexpr int kThreads = 256;

// The larger value, and of equal ones the one that comes first.
struct Candidate {
  float value;
  int index;
};
struct Likelier {
  __device__ __forceinline__ Candidate operator()(const Candidate& a, const Candidate& b) const {
    const bool other = b.value > a.value || (b.value == a.value && b.index < a.index);
    return {other ? b.value : a.value, other ? b.index : a.index};
  }
};
__device__ __forceinline__ Candidate blockLikeliest(Candidate mine, Candidate* slots) {
  const Likelier likelier;
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    mine = likelier(mine,
                    {__shfl_xor_sync(kAllLanes, mine.value, offset), __shfl_xor_sync(kAllLanes, mine.index, offset)});
  if (threadIdx.x % kWarp == 0) slots[threadIdx.x / kWarp] = mine;
  __syncthreads();
  Candidate best = slots[0];
#pragma unroll
  for (int w = 1; w < kThreads / kWarp; ++w) best = likelier(best, slots[w]);
  __syncthreads();
  return best;
}

// What the threads of a block exchange.
struct Slots {
  Candidate candidates[kThreads / kWarp];
  ExactSum sums[kThreads / kWarp];
  int counts[kThreads / kWarp];
  ExactSum perThread[kThreads];
};

// The largest of f(0) … f(n − 1).
template <class F>
__device__ __forceinline__ Candidate likeliest(int n, const F& f, Slots& slots) {
  Candidate mine = {-3.402823466e38f, n - 1};
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) mine = Likelier{}(mine, {f(i), i});
  return blockLikeliest(mine, slots.candidates);
}

template <class F>
__device__ __forceinline__ ExactSum blockSumOf(int n, const F& f, Slots& slots) {
  ExactSum sum = {0, 0};
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) sum.add(f(i));
  return blockSum<kThreads>(sum, slots.sums);
}

// ---- loss: a block a token

template <class T>
__global__ void __launch_bounds__(kThreads)
    indexLossKernel(const T* logits, const uint8_t* packed, const float* weight, int64_t weights, int64_t rows, int V,
                    int d, IndexLossParams p, float* logSum, float* perToken, float* correct, float* weighted) {
  __shared__ Slots slots;
  const float perRepeat = static_cast<float>(weights) / static_cast<float>(rows);
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const T* x = logits + r * V;
    const auto at = [&](int i) { return toFloat(x[i]); };
    const Candidate top = likeliest(V, at, slots);
    const float rest = logf(blockSumOf(
                                V, [&](int i) { return expf(at(i) - top.value); }, slots)
                                .value());
    const uint32_t label = indexOfPacked(packed + r * packedBytes(d), d);
    const float right = at(static_cast<int>(label));
    // The label's logit is subtracted from the largest first: both may be far larger than the loss.
    float loss = rest + (top.value - right);
    if (p.smoothing > 0) loss += p.smoothing * (right - blockSumOf(V, at, slots).value() / static_cast<float>(V));
    if (threadIdx.x == 0) {
      logSum[r] = top.value + rest;
      perToken[r] = loss * p.tokenFactor;
      correct[r] = static_cast<float>(d - __popc(label ^ static_cast<uint32_t>(top.index)));
      weighted[r] = loss * p.tokenFactor * (weight ? weight[r % weights] : 1.0f) * perRepeat;
    }
  }
}

LaunchShape overTokens(int64_t rows) {
  constexpr int64_t most = 1 << 20;
  return {dim3(static_cast<unsigned>(rows < most ? rows : most)), dim3(kThreads)};
}

size_t indexLossPlan(const KernelArgs& a) { return static_cast<size_t>(a.in[0].rows()) * sizeof(float); }

void launchIndexLoss(const KernelArgs& a) {
  const int64_t rows = a.in[0].rows(), weights = a.in[2] ? a.in[2].size() : 1;
  float* weighted = a.scratchAs<float>();
  withElement(a.in[0].dtype, [&](auto element) {
    using T = decltype(element);
    launch(a, "index_loss", indexLossKernel<T>, overTokens(rows), a.in[0].as<T>(), a.in[1].as<uint8_t>(),
           a.in[2].as<float>(), weights, rows, static_cast<int>(a.in[0].cols()), bitsOfCodes(a.in[0].cols()),
           a.paramsAs<IndexLossParams>(), a.out[1].as<float>(), a.out[2].as<float>(), a.out[3].as<float>(), weighted);
  });
  launchWholeRows(a, "index_loss: total", weighted, 1, rows, AddTerm{}, WriteQuotient<float>{a.out[0].as<float>(), 1});
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    indexLossBackwardKernel(const float* cotangent, const T* logits, const float* logSum, const uint8_t* packed,
                            const float* weight, int64_t weights, int64_t rows, int V, int d, IndexLossParams p,
                            T* grad) {
  const float each = *cotangent * p.tokenFactor * static_cast<float>(weights) / static_cast<float>(rows);
  const float even = p.smoothing / static_cast<float>(V);
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const float w = each * (weight ? weight[r % weights] : 1.0f), shift = logSum[r];
    const auto label = static_cast<int>(indexOfPacked(packed + r * packedBytes(d), d));
    for (int i = static_cast<int>(threadIdx.x); i < V; i += kThreads) {
      const float target = even + (i == label ? 1.0f - p.smoothing : 0.0f);
      grad[r * V + i] = fromFloat<T>(w * (expf(toFloat(logits[r * V + i]) - shift) - target));
    }
  }
}

void launchIndexLossBackward(const KernelArgs& a) {
  const int64_t rows = a.in[1].rows(), weights = a.in[4] ? a.in[4].size() : 1;
  withElement(a.in[1].dtype, [&](auto element) {
    using T = decltype(element);
    launch(a, "index_loss_backward", indexLossBackwardKernel<T>, overTokens(rows), a.in[0].as<float>(), a.in[1].as<T>(),
           a.in[2].as<float>(), a.in[3].as<uint8_t>(), a.in[4].as<float>(), weights, rows,
           static_cast<int>(a.in[1].cols()), bitsOfCodes(a.in[1].cols()), a.paramsAs<IndexLossParams>(),
           a.out[0].as<T>());
  });
}

// ---- drawing: a block a token; logits are guided anew in every pass, so that nothing of their size is stored

template <class T>
__global__ void __launch_bounds__(kThreads)
    indexSampleKernel(const T* cond, const T* uncond, const float* draws, const uint32_t* keys, uint8_t* bits,
                      float* probability, uint32_t* fault, int64_t rows, int64_t tokens, int V, int d,
                      const SampleChoice* choice, IndexSampleParams p) {
  __shared__ Slots slots;
  const SampleChoice by = *choice;
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const auto at = [&](int i) {
      float x = toFloat(cond[r * V + i]);
      if (uncond) x = by.guidance * x + (1.0f - by.guidance) * toFloat(uncond[r * V + i]);
      return x * by.inverseTau + 0.0f;  // the sum turns −0 into 0, which has another order
    };
    const auto orderAt = [&](int i) { return orderOf(__float_as_uint(at(i))); };
    const Candidate top = likeliest(V, at, slots);
    const float total = blockSumOf(
                            V, [&](int i) { return expf(at(i) - top.value); }, slots)
                            .value();
    if (!(total >= 1) && thread == 0) atomicOr(fault, static_cast<uint32_t>(kNotANumber));
    int drawn = top.index;
    float certainty = 1;
    if (p.topK != 1 && total >= 1) {
      const auto massBetween = [&](uint32_t low, uint32_t high) {
        const auto share = [&](int i) {
          const float x = at(i);
          const uint32_t order = orderOf(__float_as_uint(x));
          return order >= low && order <= high ? expf(x - top.value) : 0.0f;
        };
        return blockSumOf(V, share, slots).value();
      };
      const uint32_t high = orderOf(__float_as_uint(top.value));
      uint32_t least = 0;
      if (p.topK > 0 && p.topK < static_cast<uint32_t>(V)) {
        // The first order above which fewer than k lie.
        least = firstOrder(least, high, [&](uint32_t order) {
          int above = 0;
          for (int i = thread; i < V; i += kThreads) above += orderAt(i) > order;
          return static_cast<uint32_t>(blockReduce<kThreads>(above, slots.counts)) < p.topK;
        });
      }
      float kept = massBetween(least, high);
      if (by.threshold >= 0) {
        // The first order up to which more than the threshold lies; the most likely code always stays.
        const uint32_t from = least;
        const float most = by.threshold * kept;
        least = firstOrder(from, high, [&](uint32_t order) { return massBetween(from, order) > most; });
        kept = massBetween(least, high);
      }
      float u = draws ? draws[r] : 0.0f;
      if (!draws) {
        float one[1];
        Draws(keys, r / tokens, p.scale, p.stream).run(static_cast<uint32_t>(r % tokens), one);
        u = one[0];
      }
      // Every thread adds up a stretch of the codes, and looks for the draw where the sums before it lead to.
      const int stretch = static_cast<int>(ceilDiv(V, kThreads)), first = thread * stretch;
      const int last = first + stretch < V ? first + stretch : V;
      const auto shareAt = [&](int i) { return orderAt(i) >= least ? expf(at(i) - top.value) : 0.0f; };
      ExactSum mine = {0, 0};
      for (int i = first; i < last; ++i) mine.add(shareAt(i));
      slots.perThread[thread] = mine;
      __syncthreads();
      ExactSum before = {0, 0}, all = {0, 0};
      for (int t = 0; t < kThreads; ++t) {
        if (t == thread) before = all;
        all.add(slots.perThread[t]);
      }
      const float target = u * all.value();
      // The code whose share the target falls into; by rounding it may be behind the last one: then that one.
      int found = -1;
      ExactSum sum = before;
      for (int i = first; i < last; ++i) {
        const float share = shareAt(i);
        if (orderAt(i) < least) continue;
        if (sum.value() <= target) found = i;
        sum.add(share);
      }
      found = blockReduce<kThreads>(found, slots.counts, Max{});
      drawn = found;
      certainty = expf(at(drawn) - top.value) / kept;
    }
    if (thread == 0) probability[r] = certainty;
    if (thread < d) bits[r * d + thread] = static_cast<uint32_t>(drawn) >> (d - 1 - thread) & 1;
    __syncthreads();
  }
}

void launchIndexSample(const KernelArgs& a) {
  const int64_t rows = a.out[0].rows();
  withElement(a.in[0].dtype, [&](auto element) {
    using T = decltype(element);
    launch(a, "index_sample", indexSampleKernel<T>, overTokens(rows), a.in[0].as<T>(), a.in[1].as<T>(),
           a.in[2].as<float>(), a.in[3].as<uint32_t>(), a.out[0].as<uint8_t>(), a.out[1].as<float>(), a.fault, rows,
           rows / a.out[0].dims[0], static_cast<int>(a.in[0].cols()), static_cast<int>(a.out[0].cols()),
           a.in[4].as<SampleChoice>(), a.paramsAs<IndexSampleParams>());
  });
}

bool acceptIndexLoss(const TensorView* in, const TensorView* out) {
  return isStored(in[0]) && isF32(in[2]) && isF32(out[0]) && isF32(out[1]) && isF32(out[2]) && isF32(out[3]);
}
bool acceptIndexLossBackward(const TensorView* in, const TensorView* out) {
  return isStored(in[1]) && isF32(in[0]) && isF32(in[2]) && isF32(in[4]) && out[0].dtype == in[1].dtype;
}
bool acceptIndexSample(const TensorView* in, const TensorView* out) {
  return isStored(in[0]) && (!in[1] || in[1].dtype == in[0].dtype) && isF32(in[2]) && isF32(out[1]);
}

}  // namespace

INFINITY_CUDA_KERNEL(index_loss, launchIndexLoss, indexLossPlan, acceptIndexLoss);
INFINITY_CUDA_KERNEL(index_loss_backward, launchIndexLossBackward, nullptr, acceptIndexLossBackward);
INFINITY_CUDA_KERNEL(index_sample, launchIndexSample, nullptr, acceptIndexSample);

}  // namespace infinity::cuda
