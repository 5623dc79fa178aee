// Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). The one source of randomness:
// key = 64-bit seed, counter = (element / 4, scale, image, stream), so a draw never depends on batch, device or thread.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define INFINITY_HD __host__ __device__
#else
#define INFINITY_HD
#endif

namespace infinity {

struct Philox4 {
  uint32_t v[4];
};

INFINITY_HD inline Philox4 philox4x32(uint32_t seedLo, uint32_t seedHi, uint32_t c0, uint32_t c1, uint32_t c2,
                                      uint32_t c3) {
  uint32_t k0 = seedLo, k1 = seedHi;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0, n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// 24 random bits in [0, 1).
INFINITY_HD inline float philoxUniform(uint32_t x) { return static_cast<float>(x >> 8) * 5.9604644775390625e-8f; }

// The draw of one element; kernels that walk a range take four at a time.
INFINITY_HD inline float philoxUniformAt(uint32_t seedLo, uint32_t seedHi, uint32_t element, uint32_t scale,
                                         uint32_t image, uint32_t stream) {
  return philoxUniform(philox4x32(seedLo, seedHi, element >> 2, scale, image, stream).v[element & 3]);
}

}  // namespace infinity
