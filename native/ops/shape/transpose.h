// Square blocks of 32-bit elements turned over in registers: log2(lanes) rounds, in each of which two rows trade the
// lanes in which they differ by that power of two.
#pragma once
#include <utility>

#include "cpu/simd.h"

namespace infinity::INFINITY_ISA {
namespace {

#if defined(__clang__) || __GNUC__ >= 12
#define INFINITY_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define INFINITY_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, VecI{__VA_ARGS__})
#endif

template <int Distance, int... L>
INFINITY_INLINE void tradeLanes(VecF& a, VecF& b, std::integer_sequence<int, L...>) {
  const VecF low = INFINITY_SHUFFLE(a, b, ((L & Distance) ? kLanes + L - Distance : L)...);
  b = INFINITY_SHUFFLE(a, b, ((L & Distance) ? kLanes + L : L + Distance)...);
  a = low;
}
#undef INFINITY_SHUFFLE

template <int Distance>
INFINITY_INLINE void transposeRounds(VecF* rows) {
  for (int i = 0; i < kLanes; ++i)
    if (!(i & Distance)) tradeLanes<Distance>(rows[i], rows[i + Distance], std::make_integer_sequence<int, kLanes>());
  if constexpr (Distance > 1) transposeRounds<Distance / 2>(rows);
}

// to[q · toStride + p] = from[p · fromStride + q] for p, q < kLanes.
INFINITY_INLINE void transposeSquare(const float* from, int64_t fromStride, float* to, int64_t toStride) {
  VecF rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = load(from + i * fromStride);
  transposeRounds<kLanes / 2>(rows);
  for (int i = 0; i < kLanes; ++i) store(to + i * toStride, rows[i]);
}

// The same for any p and q and any type; 32-bit elements go through `transposeSquare`.
template <class E>
void transposeBlock(const E* from, int64_t fromStride, E* to, int64_t toStride, int64_t p, int64_t q) {
  int64_t wholeP = 0, wholeQ = 0;
  if constexpr (sizeof(E) == 4) {
    wholeP = p / kLanes * kLanes;
    wholeQ = q / kLanes * kLanes;
    for (int64_t j = 0; j < wholeQ; j += kLanes)
      for (int64_t i = 0; i < wholeP; i += kLanes)
        transposeSquare(reinterpret_cast<const float*>(from) + i * fromStride + j, fromStride,
                        reinterpret_cast<float*>(to) + j * toStride + i, toStride);
  }
  // What is left: the rows beyond wholeP, and the columns beyond wholeQ of the others.
  for (int64_t i = 0; i < p; ++i)
    for (int64_t j = i < wholeP ? wholeQ : 0; j < q; ++j) to[j * toStride + i] = from[i * fromStride + j];
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
