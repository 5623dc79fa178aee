// An attention as it is described where its way is decided.
#pragma once
#include <cstdint>
#include <string>
#include <tuple>

#include "core/tensor.h"

namespace infinity::cuda {

// What a decision may depend on. Texts differ in their number of keys from prompt to prompt, so it is that of the next
// power of two.
struct AttentionCase {
  int64_t batch, queries, keys, heads, width;
  DType type;
  bool aligned;  // heads start, and go on, at multiples of 16 bytes
  bool eachOwn;  // every query has a range of keys of its own
  bool bias;
  bool unitKeys;
  bool positive;  // the scale: a larger product is a larger score
};

inline bool operator<(const AttentionCase& x, const AttentionCase& y) {
  const auto tied = [](const AttentionCase& c) {
    return std::make_tuple(c.batch, c.queries, c.keys, c.heads, c.width, c.type, c.aligned, c.eachOwn, c.bias,
                           c.unitKeys, c.positive);
  };
  return tied(x) < tied(y);
}

// "attention 2x4096 of up to 16384, 16 heads of 128, bf16, unit keys"
std::string describe(const AttentionCase& c);

}  // namespace infinity::cuda
