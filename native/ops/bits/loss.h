// Cross entropy of bits on the CPU: of given gaps, or of gaps that the head's product has just made.
#pragma once
#include "cpu/kernel.h"
#include "ops/bits/lanes.h"

namespace infinity::INFINITY_ISA {
namespace {

// Tokens a partial sum of the loss: the order of the sum depends on the number of tokens alone.
constexpr int64_t kLossRows = 64;

inline size_t bitLossBytes(int64_t rows) { return static_cast<size_t>(tilesFor(rows, kLossRows)) * sizeof(double); }

// Two-class cross entropy from the gap δ = logit₁ − logit₀: softplus(−t), t = ±δ signed by the label; with smoothing ε
// the other value weighs ε/2, which adds t·ε/2. Writes the loss, its gradient by δ (which may be where the gaps are),
// and per token the loss and the hits.
template <class T>
void bitLoss(const KernelArgs& a, const T* gap, int64_t d, const TensorView& labels, const TensorView& weights,
             void* scratch) {
  const auto& p = a.paramsAs<BitLossParams>();
  const T* weight = weights.as<T>();
  T *loss = a.out[0].as<T>(), *grad = a.out[1].as<T>(), *perToken = a.out[2].as<T>(), *correct = a.out[3].as<T>();
  const int64_t rows = labels.rows(), bytes = labels.cols(), count = weight ? weights.size() : 1;
  const T perRepeat = static_cast<T>(count) / static_cast<T>(rows);
  const T bitFactor = p.bitFactor, half = static_cast<T>(p.smoothing) / 2;
  double* partial = static_cast<double*>(scratch);
  constexpr int lanes = lanesOf<T>;
  a.pool->parallelFor(tilesFor(rows, kLossRows), [&](int64_t tile) {
    const int64_t begin = tile * kLossRows, end = rows < begin + kLossRows ? rows : begin + kLossRows;
    double sum = 0;
    for (int64_t r = begin; r < end; ++r) {
      const T w = (weight ? weight[r % count] : 1) * perRepeat;
      const Vec<T> gradFactor = splat(w * bitFactor);
      const uint8_t* bits = labels.as<uint8_t>() + r * bytes;
      Vec<T> total = {}, hits = {};
      for (int64_t j = 0; j < d; j += lanes) {
        const int n = d - j < lanes ? static_cast<int>(d - j) : lanes;
        const Vec<T> x = loadUpTo(gap + r * d + j, n), bit = loadPacked<T>(bits, j, n);
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
    partial[tile] = sum;
  });
  double sum = 0;
  for (int64_t i = 0; i < tilesFor(rows, kLossRows); ++i) sum += partial[i];
  *loss = static_cast<T>(sum);
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
