// Bits of the visual code: 0 or 1 in a byte, channels last, or packed, eight a byte: channel 0 in the most significant
// place, as in the official integer labels, and zeros after the last. Labels of training are packed. Source of the
// mathematics: Infinity, infinity/models/bsq_vae/multiscale_bsq.py (codes), infinity/models/infinity.py (sampling),
// trainer.py (loss).
#pragma once
#include <cstdint>

#include "core/philox.h"

namespace infinity {

struct BitFlipParams {
  float strength;  // a bit flips where its draw is below
  uint32_t scale;  // words of the Philox counter, see core/philox.h
  uint32_t stream;
};

struct BitLossParams {
  float bitFactor;  // 1/D for the mean over the bits of a token, 1 for their sum
  float smoothing;  // label smoothing in [0, 1]
};

struct BitSampleParams {
  uint32_t greedy;
  uint32_t scale;
  uint32_t stream;
};

// An operand f32 [3] of what draws, so that recorded commands can be run with other values.
struct SampleChoice {
  float guidance;  // guided = guidance · conditional + (1 − guidance) · unconditional
  float inverseTau;
  float threshold;  // 1 − top_p: the least likely values of at most this probability are dropped; negative: none
};

namespace {

// Bytes of a packed row of d bits.
INFINITY_HD inline int64_t packedBytes(int64_t d) { return (d + 7) / 8; }

// |code| of a bit among d channels: 1/√d, normalised once more as the official code does, in the precision of T and in
// the order of the channels. In f32 that is one unit in the last place above 1/√d for d = 14 and 32.
template <class T>
T codeMagnitude(int64_t d) {
  const T s = static_cast<T>(1.0 / __builtin_sqrt(static_cast<double>(d)));
  volatile T square = s * s;  // kept from contraction: the official sum rounds each square
  T sum = 0;
  for (int64_t i = 0; i < d; ++i) sum += square;
  return s / static_cast<T>(__builtin_sqrt(static_cast<double>(sum)));
}

}  // namespace
}  // namespace infinity
