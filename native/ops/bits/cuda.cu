#include "cuda/ragged.cuh"
#include "ops/bits/bit.cuh"
#include "ops/bits/draws.cuh"
#include "ops/reduce/cuda_rows.cuh"

namespace infinity::cuda {
namespace {

constexpr int kThreads = 256;

// ---- codes, packing, folding: nothing but memory

constexpr int kBitsPerThread = 8;

template <class T>
__global__ void bitsToCodesKernel(const uint8_t* bits, T* codes, int64_t n, float magnitude) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kBitsPerThread;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kBitsPerThread; i < n; i += step) {
    const int count = n - i < kBitsPerThread ? static_cast<int>(n - i) : kBitsPerThread;
    uint8_t bit[kBitsPerThread];
    float code[kBitsPerThread];
    loadUpTo(bits + i, count, bit);
#pragma unroll
    for (int k = 0; k < kBitsPerThread; ++k) code[k] = bit[k] ? magnitude : -magnitude;
    storeFloats(codes + i, count, code);
  }
}

void launchBitsToCodes(const KernelArgs& a) {
  const int64_t n = a.in[0].size();
  withElement(a.out[0].dtype, [&](auto element) {
    using T = decltype(element);
    launch(a, "bits_to_codes", bitsToCodesKernel<T>, overElements(a, n, kBitsPerThread, kThreads),
           a.in[0].as<uint8_t>(), a.out[0].as<T>(), n, codeMagnitude<float>(a.in[0].cols()));
  });
}

// A thread for each byte.
__global__ void packBitsKernel(const uint8_t* bits, uint8_t* packed, int64_t rows, int d, int bytes) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < rows * bytes; i += step) {
    const int64_t row = i / bytes;
    const int first = static_cast<int>(i - row * bytes) * 8;
    uint8_t bit[8];
    loadUpTo(bits + row * d + first, d - first, bit);
    packed[i] = packByte(bit);
  }
}

void launchPackBits(const KernelArgs& a) {
  launch(a, "pack_bits", packBitsKernel, overElements(a, a.out[0].size(), 1, kThreads), a.in[0].as<uint8_t>(),
         a.out[0].as<uint8_t>(), a.in[0].rows(), static_cast<int>(a.in[0].cols()), static_cast<int>(a.out[0].cols()));
}

__global__ void unpackBitsKernel(const uint8_t* packed, uint8_t* bits, int64_t rows, int d, int bytes) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < rows * bytes; i += step) {
    const int64_t row = i / bytes;
    const int first = static_cast<int>(i - row * bytes) * 8;
    uint8_t bit[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) bit[k] = packed[i] >> (7 - k) & 1;
    storeUpTo(bits + row * d + first, d - first, bit);
  }
}

void launchUnpackBits(const KernelArgs& a) {
  launch(a, "unpack_bits", unpackBitsKernel, overElements(a, a.in[0].size(), 1, kThreads), a.in[0].as<uint8_t>(),
         a.out[0].as<uint8_t>(), a.out[0].rows(), static_cast<int>(a.out[0].cols()), static_cast<int>(a.in[0].cols()));
}

// Rows 2j and 2j + 1 of the head to their difference, and a gradient of that back to both: grid.y counts rows.
template <class T>
__global__ void foldPairsKernel(const T* w, T* difference, int rows, int cols) {
  for (int64_t j = blockIdx.y; j < rows; j += gridDim.y) {
    const T* pair = w + j * 2 * cols;
    for (int k = static_cast<int>(blockIdx.x) * kThreads + threadIdx.x; k < cols; k += gridDim.x * kThreads)
      difference[j * cols + k] = fromFloat<T>(toFloat(pair[cols + k]) - toFloat(pair[k]));
  }
}
template <class T>
__global__ void foldPairsBackwardKernel(const T* g, T* gw, int rows, int cols) {
  for (int64_t j = blockIdx.y; j < rows; j += gridDim.y) {
    T* pair = gw + j * 2 * cols;
    for (int k = static_cast<int>(blockIdx.x) * kThreads + threadIdx.x; k < cols; k += gridDim.x * kThreads) {
      const T slope = g[j * cols + k];
      pair[k] = fromFloat<T>(-toFloat(slope));
      pair[cols + k] = slope;
    }
  }
}

LaunchShape overPairs(const TensorView& folded) {
  const int64_t rows = folded.dims[0], cols = folded.size() / rows;
  return {dim3(static_cast<unsigned>(ceilDiv(cols, kThreads)), static_cast<unsigned>(rows < 65535 ? rows : 65535)),
          dim3(kThreads)};
}

void launchFoldPairs(const KernelArgs& a) {
  const int rows = static_cast<int>(a.out[0].dims[0]), cols = static_cast<int>(a.out[0].size() / rows);
  withElement(a.in[0].dtype, [&](auto element) {
    using T = decltype(element);
    launch(a, "fold_pairs", foldPairsKernel<T>, overPairs(a.out[0]), a.in[0].as<T>(), a.out[0].as<T>(), rows, cols);
  });
}
void launchFoldPairsBackward(const KernelArgs& a) {
  const int rows = static_cast<int>(a.in[0].dims[0]), cols = static_cast<int>(a.in[0].size() / rows);
  withElement(a.in[0].dtype, [&](auto element) {
    using T = decltype(element);
    launch(a, "fold_pairs_backward", foldPairsBackwardKernel<T>, overPairs(a.in[0]), a.in[0].as<T>(), a.out[0].as<T>(),
           rows, cols);
  });
}

// ---- draws: a thread takes four elements of one image, which is one Philox block; grid.y counts images

LaunchShape overImages(const KernelArgs& a, int64_t images, int64_t perImage) {
  LaunchShape shape = overElements(a, perImage, 4, kThreads);
  shape.grid.y = static_cast<unsigned>(images < 65535 ? images : 65535);
  return shape;
}

__global__ void bitFlipKernel(const uint8_t* bits, const float* draws, const uint32_t* keys, uint8_t* flipped,
                              int64_t images, int64_t perImage, BitFlipParams p) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * 4;
  for (int64_t b = blockIdx.y; b < images; b += gridDim.y) {
    for (int64_t e = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4; e < perImage; e += step) {
      const int count = perImage - e < 4 ? static_cast<int>(perImage - e) : 4;
      uint8_t bit[4];
      float u[4];
      loadUpTo(bits + b * perImage + e, count, bit);
      uniforms(draws, keys, b, perImage, e, count, p.scale, p.stream, u);
#pragma unroll
      for (int k = 0; k < 4; ++k) bit[k] ^= u[k] < p.strength;
      storeUpTo(flipped + b * perImage + e, count, bit);
    }
  }
}

void launchBitFlip(const KernelArgs& a) {
  const int64_t images = a.in[0].dims[0], perImage = a.in[0].size() / images;
  launch(a, "bit_flip", bitFlipKernel, overImages(a, images, perImage), a.in[0].as<uint8_t>(), a.in[1].as<float>(),
         a.in[2].as<uint32_t>(), a.out[0].as<uint8_t>(), images, perImage, a.paramsAs<BitFlipParams>());
}

// Logits of the conditional and the unconditional branch (or null), two a bit.
template <class T>
__global__ void bitSampleKernel(const T* cond, const T* uncond, const float* draws, const uint32_t* keys, uint8_t* bits,
                                const SampleChoice* choice, float* prob0, uint32_t* fault, int64_t images,
                                int64_t perImage, BitSampleParams p) {
  const SampleChoice by = *choice;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * 4;
  for (int64_t b = blockIdx.y; b < images; b += gridDim.y) {
    for (int64_t e = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4; e < perImage; e += step) {
      const int count = perImage - e < 4 ? static_cast<int>(perImage - e) : 4;
      const int64_t at = b * perImage + e;
      float logits[8], other[8] = {}, u[4], zero[4];
      uint8_t bit[4];
      loadFloats(cond + 2 * at, 2 * count, logits);
      if (uncond) loadFloats(uncond + 2 * at, 2 * count, other);
      uniforms(draws, keys, b, perImage, e, count, p.scale, p.stream, u);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        float gap = logits[2 * k + 1] - logits[2 * k];
        if (uncond) gap = by.guidance * gap + (1.0f - by.guidance) * (other[2 * k + 1] - other[2 * k]);
        const DrawnBit drawn = drawBit(gap * by.inverseTau, u[k], p.greedy != 0, by.threshold);
        if (drawn.prob0 != drawn.prob0) atomicOr(fault, kNotANumber);
        zero[k] = drawn.prob0;
        bit[k] = drawn.bit;
      }
      storeUpTo(prob0 + at, count, zero);
      storeUpTo(bits + at, count, bit);
    }
  }
}

void launchBitSample(const KernelArgs& a) {
  const int64_t images = a.out[0].dims[0], perImage = a.out[0].size() / images;
  withElement(a.in[0].dtype, [&](auto element) {
    using T = decltype(element);
    launch(a, "bit_sample", bitSampleKernel<T>, overImages(a, images, perImage), a.in[0].as<T>(), a.in[1].as<T>(),
           a.in[2].as<float>(), a.in[3].as<uint32_t>(), a.out[0].as<uint8_t>(), a.in[4].as<SampleChoice>(),
           a.out[1].as<float>(), a.fault, images, perImage, a.paramsAs<BitSampleParams>());
  });
}

bool acceptBitSample(const TensorView* in, const TensorView* out) {
  return isStored(in[0]) && (!in[1] || in[1].dtype == in[0].dtype) && isF32(in[2]) && isF32(out[1]);
}

// ---- loss

// Eight lanes a token; a block sums kLossRows tokens, so that the order of the sum depends on their number alone.
constexpr int kLossLanes = 8;
constexpr int64_t kLossRows = 64;

template <class T>
__global__ void __launch_bounds__(kThreads)
    bitLossKernel(const T* gap, const uint8_t* labels, const float* weight, int64_t weights, int64_t rows, int d,
                  BitLossParams p, T* grad, float* perToken, float* correct, float* partial) {
  __shared__ float slots[kThreads / kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kLossLanes;
  const float perRepeat = static_cast<float>(weights) / static_cast<float>(rows), half = p.smoothing / 2;
  float sum = 0;
  for (int64_t r = threadIdx.x / kLossLanes; r < kLossRows; r += kThreads / kLossLanes) {
    const int64_t row = blockIdx.x * kLossRows + r;
    const bool mine = row < rows;
    const float w = mine ? (weight ? weight[row % weights] : 1.0f) * perRepeat : 0.0f;
    const uint8_t* packed = labels + row * packedBytes(d);
    float total = 0, hits = 0;
    for (int j = lane * 4; mine && j < d; j += kLossLanes * 4) {
      const int64_t at = row * d + j;
      float x[4], slope[4];
      const unsigned four = fourLabels(packed, j);
      loadFloats(gap + at, d - j, x);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const BitTerm term = bitTerm(x[k], four >> (3 - k) & 1, half);
        slope[k] = w * p.bitFactor * term.slope;
        if (j + k < d) total += term.loss, hits += term.hit;
      }
      storeFloats(grad + at, d - j, slope);
    }
    total = warpReduce<kLossLanes>(total) * p.bitFactor;
    hits = warpReduce<kLossLanes>(hits);
    if (mine && lane == 0) {
      perToken[row] = total;
      correct[row] = hits;
      sum += total * w;
    }
  }
  sum = blockReduce<kThreads>(sum, slots);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

size_t bitLossPlan(const KernelArgs& a) {
  return static_cast<size_t>(ceilDiv(a.in[0].rows(), kLossRows)) * sizeof(float);
}

void launchBitLoss(const KernelArgs& a) {
  const int64_t rows = a.in[0].rows(), blocks = ceilDiv(rows, kLossRows), weights = a.in[2] ? a.in[2].size() : 1;
  float* partial = a.scratchAs<float>();
  withElement(a.in[0].dtype, [&](auto element) {
    using T = decltype(element);
    launch(a, "bit_loss", bitLossKernel<T>, {dim3(static_cast<unsigned>(blocks)), dim3(kThreads)}, a.in[0].as<T>(),
           a.in[1].as<uint8_t>(), a.in[2].as<float>(), weights, rows, static_cast<int>(a.in[0].cols()),
           a.paramsAs<BitLossParams>(), a.out[1].as<T>(), a.out[2].as<float>(), a.out[3].as<float>(), partial);
  });
  launchWholeRows(a, "bit_loss: total", partial, 1, blocks, AddTerm{}, WriteQuotient<float>{a.out[0].as<float>(), 1});
}

bool acceptBitLoss(const TensorView* in, const TensorView* out) {
  return isStored(in[0]) && isF32(in[2]) && isF32(out[0]) && out[1].dtype == in[0].dtype && isF32(out[2]) &&
         isF32(out[3]);
}

bool acceptCodes(const TensorView*, const TensorView* out) { return isStored(out[0]); }
bool acceptFold(const TensorView* in, const TensorView* out) { return isStored(in[0]) && out[0].dtype == in[0].dtype; }

}  // namespace

INFINITY_CUDA_KERNEL(bits_to_codes, launchBitsToCodes, nullptr, acceptCodes);
INFINITY_CUDA_KERNEL(bit_flip, launchBitFlip, nullptr, nullptr);
INFINITY_CUDA_KERNEL(pack_bits, launchPackBits, nullptr, nullptr);
INFINITY_CUDA_KERNEL(unpack_bits, launchUnpackBits, nullptr, nullptr);
INFINITY_CUDA_KERNEL(fold_pairs, launchFoldPairs, nullptr, acceptFold);
INFINITY_CUDA_KERNEL(fold_pairs_backward, launchFoldPairsBackward, nullptr, acceptFold);
INFINITY_CUDA_KERNEL(bit_loss, launchBitLoss, bitLossPlan, acceptBitLoss);
INFINITY_CUDA_KERNEL(bit_sample, launchBitSample, nullptr, acceptBitSample);

}  // namespace infinity::cuda
