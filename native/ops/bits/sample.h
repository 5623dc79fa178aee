// Drawing bits on the CPU: from given logits, or from gaps that the head's product has just made.
#pragma once
#include <atomic>

#include "cpu/kernel.h"
#include "ops/bits/draws.h"
#include "ops/bits/lanes.h"

namespace infinity::INFINITY_ISA {
namespace {

// Official order of operations, two classes: guide, divide by τ, keep the k or p most likely, draw. gapOf(i) is the
// guided gap of element i of bits a.out[0]; a.out[1] takes the probabilities of 0 where it is of the type T.
template <class T, class GapOf>
void sampleBits(const KernelArgs& a, const BitSampleParams& p, const SampleChoice& choice, const TensorView& recorded,
                const TensorView& keys, const GapOf& gapOf) {
  const T* draws = recorded.as<T>();
  uint8_t* bits = a.out[0].as<uint8_t>();
  T* prob0 = a.out[1].dtype == DType::u8 ? nullptr : a.out[1].as<T>();
  const int64_t d = a.out[0].cols(), images = a.out[0].dims[0], rows = a.out[0].rows() / images;
  const T inverseTau = choice.inverseTau;
  constexpr int lanes = lanesOf<T>;
  const int64_t rowsPerTile = 64, perImage = tilesFor(rows, rowsPerTile);
  std::atomic<bool> invalid{false};
  a.pool->parallelFor(images * perImage, [&](int64_t tile) {
    const int64_t b = tile / perImage, first = tile % perImage * rowsPerTile;
    const int64_t last = first + rowsPerTile < rows ? first + rowsPerTile : rows;
    DrawRun run = {};
    if (keys) run = drawRun(keys, b, p.scale, p.stream);
    for (int64_t e = first * d; e < last * d; e += lanes) {
      const int n = last * d - e < lanes ? static_cast<int>(last * d - e) : lanes;
      const int64_t at = b * rows * d + e;
      T gap[lanes] = {}, zero[lanes];
      for (int i = 0; i < n; ++i) gap[i] = gapOf(at + i) * inverseTau;
      store(zero, sigmoid(-load(gap)));
      for (int i = 0; i < n; ++i) {
        T p0 = zero[i];
        if (p0 != p0) invalid.store(true, std::memory_order_relaxed);
        const T less = p0 < 1 - p0 ? p0 : 1 - p0;
        if (p.greedy || less <= choice.threshold) p0 = gap[i] > 0 ? 0 : 1;
        const T u = p.greedy ? static_cast<T>(0.5) : draws ? draws[at + i] : run.at(static_cast<uint32_t>(e + i));
        if (prob0) prob0[at + i] = p0;
        bits[at + i] = u > p0;
      }
    }
  });
  if (invalid.load(std::memory_order_relaxed)) a.fail("NUMERICAL", "The logits are not numbers.");
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
