// Bits of the visual code: 0 or 1 in a byte, channels last. Source of the mathematics: Infinity,
// infinity/models/bsq_vae/multiscale_bsq.py (codes), infinity/models/infinity.py (sampling), trainer.py (loss).
#pragma once
#include <cstdint>

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
  float guidance;  // guided = guidance · conditional + (1 − guidance) · unconditional
  float inverseTau;
  uint32_t greedy;
  float threshold;  // 1 − top_p: the less likely value is dropped when its probability is not above; negative: never
  uint32_t scale;
  uint32_t stream;
};

}  // namespace infinity
