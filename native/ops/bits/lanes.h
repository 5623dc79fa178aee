// Bits between memory and lanes: bytes 0 and 1 there, the numbers 0 and 1 here.
#pragma once
#include "cpu/simd.h"

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

/// |code| of a bit among d channels: 1/√d, normalised once more as the official code does, in the precision of T and in
/// the order of the channels. In f32 that is one unit in the last place above 1/√d for d = 14 and 32.
template <class T>
T codeMagnitude(int64_t d) {
  const T s = static_cast<T>(1.0 / __builtin_sqrt(static_cast<double>(d)));
  volatile T square = s * s;  // kept from contraction: the official sum rounds each square
  T sum = 0;
  for (int64_t i = 0; i < d; ++i) sum += square;
  return s / static_cast<T>(__builtin_sqrt(static_cast<double>(sum)));
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
