#include <atomic>

#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/bits/bits.h"
#include "ops/bits/draws.h"
#include "ops/bits/lanes.h"

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

// Eight bits a byte along the last axis; channel 0 is the most significant bit, as in the official integer labels.
void packBitsKernel(const KernelArgs& a) {
  const int64_t d = a.in[0].cols(), bytes = a.out[0].cols();
  const uint8_t* bits = a.in[0].as<uint8_t>();
  uint8_t* packed = a.out[0].as<uint8_t>();
  overRange(a, a.out[0].size(), kElementsPerTile, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % bytes * 8;
      const uint8_t* from = bits + i / bytes * d + first;
      const int n = d - first < 8 ? static_cast<int>(d - first) : 8;
      unsigned value = 0;
      for (int j = 0; j < n; ++j) value |= static_cast<unsigned>(from[j] != 0) << (7 - j);
      packed[i] = static_cast<uint8_t>(value);
    }
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

// Tokens a partial sum of the loss: the order of the sum depends on the number of tokens alone.
constexpr int64_t kLossRows = 64;

size_t bitLossPlan(const KernelArgs& a) {
  return static_cast<size_t>(tilesFor(a.in[0].rows(), kLossRows)) * sizeof(double);
}

// Two-class cross entropy from the gap δ = logit₁ − logit₀: softplus(−t), t = ±δ signed by the label; with smoothing ε
// the other value weighs ε/2, which adds t·ε/2. Writes the loss, its gradient by δ, and per token the loss and the
// hits.
template <class T>
void bitLossKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<BitLossParams>();
  const T* gap = a.in[0].as<T>();
  const uint8_t* bits = a.in[1].as<uint8_t>();
  const T* weight = a.in[2].as<T>();
  T *loss = a.out[0].as<T>(), *grad = a.out[1].as<T>(), *perToken = a.out[2].as<T>(), *correct = a.out[3].as<T>();
  const int64_t d = a.in[0].cols(), rows = a.in[0].rows(), weights = weight ? a.in[2].size() : 1;
  const T perRepeat = static_cast<T>(weights) / static_cast<T>(rows);
  const T bitFactor = p.bitFactor, half = static_cast<T>(p.smoothing) / 2;
  double* partial = static_cast<double*>(a.scratch);
  constexpr int lanes = lanesOf<T>;
  overRange(a, rows, kLossRows, [&](int64_t begin, int64_t end) {
    double sum = 0;
    for (int64_t r = begin; r < end; ++r) {
      const T w = (weight ? weight[r % weights] : 1) * perRepeat;
      const Vec<T> gradFactor = splat(w * bitFactor);
      Vec<T> total = {}, hits = {};
      for (int64_t j = 0; j < d; j += lanes) {
        const int n = d - j < lanes ? static_cast<int>(d - j) : lanes;
        const Vec<T> x = loadUpTo(gap + r * d + j, n), bit = loadBits<T>(bits + r * d + j, n);
        const Vec<T> sign = bit + bit - 1, t = sign * x;
        total += keepFirst(fma(splat(half), t, softplus(-t)), n);
        // δ = 0 chooses the value 0, as argmax does.
        const Vec<T> choice = x > 0 ? splatTo<T>(1) : splatTo<T>(0);
        hits += keepFirst(choice == bit ? splatTo<T>(1) : splatTo<T>(0), n);
        storeUpTo(grad + r * d + j, gradFactor * sign * (splat(half) - sigmoid(-t)), n);
      }
      const T tokenLoss = hsum(total) * bitFactor;
      perToken[r] = tokenLoss;
      correct[r] = hsum(hits);
      sum += static_cast<double>(tokenLoss) * w;
    }
    partial[begin / kLossRows] = sum;
  });
  double sum = 0;
  for (int64_t i = 0; i < tilesFor(rows, kLossRows); ++i) sum += partial[i];
  *loss = static_cast<T>(sum);
}

// Official order of operations, two classes: guide, divide by τ, keep the k or p most likely, draw.
template <class T>
void bitSampleKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<BitSampleParams>();
  const T *cond = a.in[0].as<T>(), *uncond = a.in[1].as<T>(), *draws = a.in[2].as<T>();
  uint8_t* bits = a.out[0].as<uint8_t>();
  T* prob0 = a.out[1].as<T>();
  const int64_t d = a.out[0].cols(), images = a.out[0].dims[0], rows = a.out[0].rows() / images;
  const T guidance = p.guidance, rest = 1 - guidance, inverseTau = p.inverseTau;
  constexpr int lanes = lanesOf<T>;
  const int64_t rowsPerTile = 64, perImage = tilesFor(rows, rowsPerTile);
  std::atomic<bool> invalid{false};
  a.pool->parallelFor(images * perImage, [&](int64_t tile) {
    const int64_t b = tile / perImage, first = tile % perImage * rowsPerTile;
    const int64_t last = first + rowsPerTile < rows ? first + rowsPerTile : rows;
    DrawRun run = {};
    if (a.in[3]) run = drawRun(a.in[3], b, p.scale, p.stream);
    for (int64_t e = first * d; e < last * d; e += lanes) {
      const int n = last * d - e < lanes ? static_cast<int>(last * d - e) : lanes;
      const int64_t at = b * rows * d + e;
      T gap[lanes] = {}, zero[lanes];
      for (int i = 0; i < n; ++i) {
        T g = cond[2 * (at + i) + 1] - cond[2 * (at + i)];
        if (uncond) g = guidance * g + rest * (uncond[2 * (at + i) + 1] - uncond[2 * (at + i)]);
        gap[i] = g * inverseTau;
      }
      store(zero, sigmoid(-load(gap)));
      for (int i = 0; i < n; ++i) {
        T p0 = zero[i];
        if (p0 != p0) invalid.store(true, std::memory_order_relaxed);
        const T less = p0 < 1 - p0 ? p0 : 1 - p0;
        if (p.greedy || less <= p.threshold) p0 = gap[i] > 0 ? 0 : 1;
        const T u = p.greedy ? static_cast<T>(0.5) : draws ? draws[at + i] : run.at(static_cast<uint32_t>(e + i));
        prob0[at + i] = p0;
        bits[at + i] = u > p0;
      }
    }
  });
  if (invalid.load(std::memory_order_relaxed)) a.fail("NUMERICAL", "The logits of a bit are not numbers.");
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
