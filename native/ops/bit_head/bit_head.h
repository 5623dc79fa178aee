// The bit head with what follows it, in one op: a folded head (one row a bit, see fold_pairs) gives the gap between the
// two logits of every bit, and the gap becomes a drawn bit or a loss at once. Sources as in ops/bits/bits.h.
#pragma once
#include "core/tensor.h"
#include "ops/bits/bits.h"

namespace infinity {

// bit_head_sample: hidden states [B or 2B, L, C], head [D, C], bias [D]?, draws [B, L, D]?, keys [B, 3]?,
// choice [3] → bits [B, L, D], probabilities of 0?, packed bits [B, L, ⌈D/8⌉]?, codes?
// The second half of 2B samples is unconditional. Outputs that are not asked for are u8 of another size.
struct BitHeadSampleParams {
  BitSampleParams sample;
  uint32_t codeBits;  // bits of a latent position, which decide the magnitude of a code
};

// bit_head_loss: hidden states [.., C], head [D, C], bias [D]?, packed labels [.., ⌈D/8⌉], weight [n]?
// → loss, its gradient by the gaps [.., D], per token the loss and the hits. Parameters: BitLossParams.

namespace {

inline bool guided(const TensorView& hidden, const TensorView& bits) { return hidden.dims[0] != bits.dims[0]; }
inline bool wanted(const TensorView& packed, const TensorView& bits) {
  return packed.size() == bits.rows() * packedBytes(bits.cols());
}

}  // namespace
}  // namespace infinity
