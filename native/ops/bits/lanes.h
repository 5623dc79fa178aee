// Bits between memory and lanes: bytes 0 and 1 or packed there, the numbers 0 and 1 here.
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

/// Lanes j, j + 1, … of a packed row, j being a multiple of their number; nothing is read beyond the n-th.
template <class T>
INFINITY_INLINE Vec<T> loadPacked(const uint8_t* row, int64_t j, int n) {
  if constexpr (lanesOf<T> == 1) {
    return row[j / 8] >> (7 - j % 8) & 1;
  } else {
    constexpr int32_t places[16] = {1 << 15, 1 << 14, 1 << 13, 1 << 12, 1 << 11, 1 << 10, 1 << 9, 1 << 8,
                                    1 << 7,  1 << 6,  1 << 5,  1 << 4,  1 << 3,  1 << 2,  1 << 1, 1};
    VecI place;
    __builtin_memcpy(&place, places + 16 - kLanes, sizeof place);
    int32_t bits = row[j / 8];
    if constexpr (kLanes == 16) bits = bits << 8 | (n > 8 ? row[j / 8 + 1] : 0);
    if constexpr (kLanes == 4) bits >>= 4 - j % 8;
    return (splatInt(bits) & place) != 0 ? splatTo<T>(1) : splatTo<T>(0);
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

/// Sets the first n of positiveLanes in a packed row that was zero, at places first, first + step, …; step is 1 or 4,
/// and `first` of a channel that is a multiple of the lanes.
template <class T>
INFINITY_INLINE void setPacked(uint8_t* row, int64_t first, int64_t step, uint32_t bits, int n) {
  constexpr int lanes = lanesOf<T>;
  bits = bits >> (lanes - n) << (lanes - n);
  uint8_t* to = row + first / 8;
  const int place = static_cast<int>(first % 8);
  const auto set = [](uint8_t* at, uint32_t value) { *at = static_cast<uint8_t>(*at | value); };
  if constexpr (lanes == 1) {
    set(to, bits << (7 - place));
  } else if (step == 4) {
    for (int i = 0; i < n; i += 2) {
      const uint32_t two = bits >> (lanes - 2 - i);
      set(to++, (two & 2) << (6 - place) | (two & 1) << (3 - place));
    }
  } else if constexpr (lanes == 16) {
    set(to, bits >> 8);
    if (n > 8) set(to + 1, bits & 255);
  } else {
    set(to, bits << (8 - lanes - place));
  }
}

/// Rows of d bits, packed.
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
