// Uniform numbers for kernels that decide bit by bit; the draws of ops/bits/draws.h.
#pragma once
#include "core/philox.h"
#include "cuda/ragged.cuh"

namespace infinity::cuda {

// Of one image and scale.
struct Draws {
  uint32_t seedLo, seedHi, image, scale, stream;

  // keys [B, 3]: low and high word of the seed, image.
  __device__ __forceinline__ Draws(const uint32_t* keys, int64_t b, uint32_t scale, uint32_t stream)
      : seedLo(keys[3 * b]), seedHi(keys[3 * b + 1]), image(keys[3 * b + 2]), scale(scale), stream(stream) {}

  // Of elements [element, element + N), N ≤ 4: one Philox block, or parts of two.
  template <int N>
  __device__ __forceinline__ void run(uint32_t element, float (&u)[N]) const {
    static_assert(N <= 4, "a block");
    const uint32_t skip = element & 3;
    const Philox4 first = philox4x32(seedLo, seedHi, element >> 2, scale, image, stream);
    uint32_t x[8] = {first.v[0], first.v[1], first.v[2], first.v[3]};
    if (skip + N > 4) {
      const Philox4 next = philox4x32(seedLo, seedHi, (element >> 2) + 1, scale, image, stream);
      x[4] = next.v[0], x[5] = next.v[1], x[6] = next.v[2];
    }
    // Registers have no addresses: the run moves to the front in steps of one and two.
    if (skip & 1)
#pragma unroll
      for (int i = 0; i < 7; ++i) x[i] = x[i + 1];
    if (skip & 2)
#pragma unroll
      for (int i = 0; i < 6; ++i) x[i] = x[i + 2];
#pragma unroll
    for (int i = 0; i < N; ++i) u[i] = philoxUniform(x[i]);
  }
};

// The uniform numbers of up to four elements of image b: recorded [B, perImage], drawn, or none (greedy).
__device__ __forceinline__ void uniforms(const float* recorded, const uint32_t* keys, int64_t b, int64_t perImage,
                                         int64_t element, int count, uint32_t scale, uint32_t stream, float (&u)[4]) {
  if (recorded) {
    loadUpTo(recorded + b * perImage + element, count, u);
  } else if (keys) {
    Draws(keys, b, scale, stream).run(static_cast<uint32_t>(element), u);
  } else {
    u[0] = u[1] = u[2] = u[3] = 0;
  }
}

}  // namespace infinity::cuda
