// Uniform numbers for kernels that decide bit by bit.
#pragma once
#include "core/philox.h"
#include "core/tensor.h"

namespace infinity::INFINITY_ISA {
namespace {

/// Uniform numbers of consecutive elements of one image and scale, four to a Philox block.
struct DrawRun {
  uint32_t seedLo, seedHi, image, scale, stream;
  uint32_t block = UINT32_MAX;
  Philox4 drawn = {};
  float at(uint32_t element) {
    if (element >> 2 != block) {
      block = element >> 2;
      drawn = philox4x32(seedLo, seedHi, block, scale, image, stream);
    }
    return philoxUniform(drawn.v[element & 3]);
  }
  /// n of them from `element` on; whole blocks are drawn side by side.
  template <class T>
  void fill(uint32_t element, int n, T* to) {
    int i = 0;
    if (element % 4 == 0) {
      for (; i + 4 <= n; i += 4) {
        const Philox4 four = philox4x32(seedLo, seedHi, (element + i) >> 2, scale, image, stream);
        for (int j = 0; j < 4; ++j) to[i + j] = philoxUniform(four.v[j]);
      }
    }
    for (; i < n; ++i) to[i] = at(element + i);
  }
};

/// keys [B, 3]: low and high word of the seed, image.
inline DrawRun drawRun(const TensorView& keys, int64_t b, uint32_t scale, uint32_t stream) {
  const uint32_t* k = keys.as<uint32_t>() + 3 * b;
  return {k[0], k[1], k[2], scale, stream};
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
