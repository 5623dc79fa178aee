// Sign quantisation of unit vectors (BSQ) or raw ones (LFQ), and what training adds to it. Sources: BitVAE,
// bitvae/modules/quantizer/multiscale_bsq.py (factorised entropies); vector-quantize-pytorch,
// lookup_free_quantization.py (entropies over the joint codebook of 2^d codes).
#pragma once
#include <cstdint>

namespace infinity {

constexpr double kNormFloor = 1e-12;     // F.normalize
constexpr double kBitLogOffset = 1e-8;   // ln(p + 1e-8) in the factorised entropies
constexpr double kJointLogFloor = 1e-5;  // ln(max(p, 1e-5)) in the joint ones

struct SignQuantizeParams {
  float magnitude;  // of a code element
};

struct PenaltyParams {
  float logitScale;  // logit of bit j = logitScale · z_j
  float magnitude;   // of a code element, for the commitment
};

}  // namespace infinity
