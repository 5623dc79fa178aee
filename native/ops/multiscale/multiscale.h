// Multi-scale residual quantisation with self-correction. The sign of a residual decides a bit whatever the norm over
// the channels is, so every channel plane goes through all scales on its own. Sources: Infinity,
// infinity/models/bsq_vae/multiscale_bsq.py (MultiScaleBSQ.forward), infinity/models/bitwise_self_correction.py.
#pragma once
#include <cstdint>

namespace infinity {

struct MultiscaleParams {
  uint32_t requant;   // 1: inverted bits enter the running sum, and later scales correct them
  uint32_t patchify;  // 1: labels and inputs leave as 2×2 blocks, channel 4c + 2dy + dx
  uint32_t trace;     // 1: residuals and inverted bits are written too
  uint32_t stream;    // word of the Philox counter
};

}  // namespace infinity
