#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/bits/bits.h"
#include "ops/bits/draws.h"
#include "ops/bits/lanes.h"
#include "ops/bits/loss.h"
#include "ops/bits/sample.h"

namespace infinity::INFINITY_ISA {
namespace {

// Calls body(begin, end) for ranges that cover [0, n).
template <class F>
void overRange(const KernelArgs& a, int64_t n, int64_t perTile, const F& body) {
  a.pool->parallelFor(tilesFor(n, perTile), [&](int64_t tile) {
    const int64_t begin = tile * perTile, end = begin + perTile;
    body(begin, end < n ? end : n);
  });
}

template <class T>
void bitsToCodesKernel(const KernelArgs& a) {
  const uint8_t* bits = a.in[0].as<uint8_t>();
  T* codes = a.out[0].as<T>();
  const T s = codeMagnitude<T>(a.in[0].cols());
  constexpr int lanes = lanesOf<T>;
  overRange(a, a.in[0].size(), kElementsPerTile, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += lanes) {
      const int n = end - i < lanes ? static_cast<int>(end - i) : lanes;
      storeUpTo(codes + i, signed_(loadBits<T>(bits + i, n), s), n);
    }
  });
}

template <class T>
void bitFlipKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<BitFlipParams>();
  const uint8_t* bits = a.in[0].as<uint8_t>();
  const T* draws = a.in[1].as<T>();
  uint8_t* flipped = a.out[0].as<uint8_t>();
  const int64_t images = a.in[0].dims[0], n = a.in[0].size() / images;
  const int64_t perImage = tilesFor(n);
  a.pool->parallelFor(images * perImage, [&](int64_t tile) {
    const int64_t b = tile / perImage, begin = tile % perImage * kElementsPerTile;
    const int64_t end = begin + kElementsPerTile < n ? begin + kElementsPerTile : n;
    const uint8_t* from = bits + b * n;
    uint8_t* to = flipped + b * n;
    if (draws) {
      for (int64_t i = begin; i < end; ++i) to[i] = from[i] ^ (draws[b * n + i] < p.strength);
    } else {
      DrawRun run = drawRun(a.in[2], b, p.scale, p.stream);
      for (int64_t i = begin; i < end; ++i) to[i] = from[i] ^ (run.at(static_cast<uint32_t>(i)) < p.strength);
    }
  });
}

void packBitsKernel(const KernelArgs& a) {
  const int64_t d = a.in[0].cols(), bytes = a.out[0].cols(), rowsPerTile = tilesFor(kElementsPerTile, bytes);
  overRange(a, a.in[0].rows(), rowsPerTile, [&](int64_t begin, int64_t end) {
    packRows(a.in[0].as<uint8_t>() + begin * d, end - begin, d, a.out[0].as<uint8_t>() + begin * bytes);
  });
}

void unpackBitsKernel(const KernelArgs& a) {
  const int64_t d = a.out[0].cols(), bytes = a.in[0].cols();
  const uint8_t* packed = a.in[0].as<uint8_t>();
  uint8_t* bits = a.out[0].as<uint8_t>();
  overRange(a, a.out[0].size(), kElementsPerTile, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t j = i % d;
      bits[i] = packed[i / d * bytes + j / 8] >> (7 - j % 8) & 1;
    }
  });
}

// Rows 2j and 2j + 1 of the head score values 0 and 1 of bit j; everything depends on their difference alone.
template <class T>
void foldPairsKernel(const KernelArgs& a) {
  const T* w = a.in[0].as<T>();
  T* difference = a.out[0].as<T>();
  const int64_t n = a.out[0].size(), cols = n / a.out[0].dims[0];
  overRange(a, n, kElementsPerTile, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* pair = w + i / cols * 2 * cols + i % cols;
      difference[i] = pair[cols] - pair[0];
    }
  });
}

template <class T>
void foldPairsBackwardKernel(const KernelArgs& a) {
  const T* g = a.in[0].as<T>();
  T* gw = a.out[0].as<T>();
  const int64_t n = a.in[0].size(), cols = n / a.in[0].dims[0];
  overRange(a, n, kElementsPerTile, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* pair = gw + i / cols * 2 * cols + i % cols;
      pair[0] = -g[i];
      pair[cols] = g[i];
    }
  });
}

template <class T>
void bitLossKernel(const KernelArgs& a) {
  bitLoss<T>(a, a.in[0].as<T>(), a.in[0].cols(), a.in[1], a.in[2], a.scratch);
}
size_t bitLossPlan(const KernelArgs& a) { return bitLossBytes(a.in[0].rows()); }

template <class T>
void bitSampleKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<BitSampleParams>();
  const T *cond = a.in[0].as<T>(), *uncond = a.in[1].as<T>();
  const auto& choice = *a.in[4].as<SampleChoice>();
  const T guidance = choice.guidance, rest = 1 - guidance;
  sampleBits<T>(a, p, choice, a.in[2], a.in[3], [&](int64_t i) {
    const T g = cond[2 * i + 1] - cond[2 * i];
    return uncond ? guidance * g + rest * (uncond[2 * i + 1] - uncond[2 * i]) : g;
  });
}

}  // namespace

INFINITY_KERNEL(bits_to_codes, bitsToCodesKernel<float>, bitsToCodesKernel<double>, nullptr);
INFINITY_KERNEL(bit_flip, bitFlipKernel<float>, bitFlipKernel<double>, nullptr);
INFINITY_KERNEL(pack_bits, packBitsKernel, nullptr, nullptr);
INFINITY_KERNEL(unpack_bits, unpackBitsKernel, nullptr, nullptr);
INFINITY_KERNEL(fold_pairs, foldPairsKernel<float>, foldPairsKernel<double>, nullptr);
INFINITY_KERNEL(fold_pairs_backward, foldPairsBackwardKernel<float>, foldPairsBackwardKernel<double>, nullptr);
INFINITY_KERNEL(bit_loss, bitLossKernel<float>, bitLossKernel<double>, bitLossPlan);
INFINITY_KERNEL(bit_sample, bitSampleKernel<float>, bitSampleKernel<double>, nullptr);

}  // namespace infinity::INFINITY_ISA
