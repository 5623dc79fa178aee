// Bits between memory and lanes: bytes 0 and 1 there, the numbers 0 and 1 here.
#pragma once
#include "cpu/simd.h"
#include "ops/bits/bits.h"

namespace infinity::INFINITY_ISA {
namespace {

typedef uint8_t VecB __attribute__((vector_size(kLanes)));

/// The first n lanes of Vec<T> from 0/1 bytes; zeros above.
template <class T>
INFINITY_INLINE Vec<T> loadBits(const uint8_t* p, int n) {
  if constexpr (lanesOf<T> == 1) {
    return n > 0 ? *p : 0;
  } else {
    VecB b = {};
    if (n == kLanes) {
      __builtin_memcpy(&b, p, sizeof b);
    } else {
      for (int i = 0; i < n; ++i) b[i] = p[i];
    }
    return __builtin_convertvector(b, VecF);
  }
}

/// p[i] = x[i] > 0 for the first n lanes: zeros of either sign and NaN give 0, as in the official quantiser.
INFINITY_INLINE void storePositive(uint8_t* p, VecF x, int n) {
  const VecB b = __builtin_convertvector(x > 0.0f, VecB) & 1;
  if (n == kLanes) {
    __builtin_memcpy(p, &b, sizeof b);
  } else {
    for (int i = 0; i < n; ++i) p[i] = b[i];
  }
}
INFINITY_INLINE void storePositive(uint8_t* p, double x, int n) {
  if (n > 0) *p = x > 0;
}

/// `magnitude` where x > 0, −`magnitude` elsewhere.
template <class V, class T>
INFINITY_INLINE V signed_(V x, T magnitude) {
  return x > 0 ? splat(magnitude) : splat(-magnitude);
}

/// Rows of d bits, eight bits a byte; channel 0 is the most significant bit, as in the official integer labels.
inline void packRows(const uint8_t* bits, int64_t rows, int64_t d, uint8_t* packed) {
  for (int64_t r = 0; r < rows; ++r, bits += d) {
    for (int64_t first = 0; first < d; first += 8) {
      const int n = d - first < 8 ? static_cast<int>(d - first) : 8;
      unsigned value = 0;
      for (int j = 0; j < n; ++j) value |= static_cast<unsigned>(bits[first + j] != 0) << (7 - j);
      *packed++ = static_cast<uint8_t>(value);
    }
  }
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
