// The conventional classifier: one logit for each of the 2^D codes of a token. Channel 0 of the bits is the most
// significant bit of the code's number, as in the official integer labels. Sources: Infinity, trainer.py (index
// labels), infinity/models/infinity.py (sample_with_top_k_top_p).
#pragma once
#include <cstdint>

#include "core/philox.h"

namespace infinity {

struct IndexLossParams {
  float tokenFactor;  // 1/D for nats a bit, 1 for nats a token
  float smoothing;    // label smoothing in [0, 1]
};

struct IndexSampleParams {
  uint32_t topK;   // 1 is greedy, 0 keeps all
  uint32_t scale;  // words of the Philox counter, see core/philox.h
  uint32_t stream;
};

namespace {

// The bits of a token of 2^d logits.
inline int bitsOfCodes(int64_t logits) { return __builtin_ctzll(static_cast<uint64_t>(logits)); }
// The number of a code of d ≤ 32 packed bits.
INFINITY_HD inline uint32_t indexOfPacked(const uint8_t* packed, int d) {
  uint32_t index = 0;
  for (int j = 0; j < d; j += 8) index = index << 8 | *packed++;
  return index >> (7 - (d - 1) % 8);
}
INFINITY_HD inline void bitsOfIndex(uint32_t index, int d, uint8_t* bits) {
  for (int j = 0; j < d; ++j) bits[j] = index >> (d - 1 - j) & 1;
}

// Numbers in the order of floats: order(a) < order(b) where a < b, for all that are numbers. −0 comes before 0.
INFINITY_HD inline uint32_t orderOf(uint32_t bits) { return bits >> 31 ? ~bits : bits | 1u << 31; }
INFINITY_HD inline uint64_t orderOf(uint64_t bits) { return bits >> 63 ? ~bits : bits | uint64_t{1} << 63; }

// The smallest order from `low` on that `enough` holds for; it holds for `high`, and for all above where it holds.
template <class Order, class F>
INFINITY_HD inline Order firstOrder(Order low, Order high, const F& enough) {
  while (low < high) {
    const Order middle = low + (high - low) / 2;
    if (enough(middle))
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

}  // namespace
}  // namespace infinity
