// The innermost loops of every matrix product and convolution: R rows times one panel of columns, held in registers.
//
// Each element is one chain of fused multiply-adds over ascending k, whatever R and the panel's width are. Everything
// above only decides which rows share a call, so a row alone and a row in a batch get the same bits.
#pragma once
#include "cpu/simd.h"

namespace infinity::INFINITY_ISA {
namespace {

// Rows of a full tile: as many accumulators as the register file holds beside two vectors of B and one broadcast.
#if defined(__AVX512F__)
constexpr int kMR = 14;
#elif defined(__AVX2__)
constexpr int kMR = 6;
#elif defined(__aarch64__)
constexpr int kMR = 12;
#else
constexpr int kMR = 6;
#endif
/// Vectors and columns of a full panel.
constexpr int kVN = 2;
constexpr int kNR = kVN * kLanes;
/// Terms of a sum that are accumulated in registers; longer sums are sums of such blocks, in order.
constexpr int kKC = 256;
/// Row stride of a row-major tile of A: off a power of two, so that rows do not share a cache set.
constexpr int kRowStride = kKC + 16;

/// How a tile of A lies in memory: a[row·kRowStride + k], or a[k·R + row].
enum class TileOrder { rows, columns };

/// One row of a panel from memory. In bf16 a full panel keeps its two vectors interleaved, lane by lane in one 32-bit
/// word, because a shift and a mask widen such a row faster than two conversions.
template <int VN>
INFINITY_INLINE void loadPanelRow(const float* b, VecF (&v)[VN]) {
#pragma GCC unroll 4
  for (int i = 0; i < VN; ++i) v[i] = load(b + i * kLanes);
}
template <int VN>
INFINITY_INLINE void loadPanelRow(const uint16_t* b, VecF (&v)[VN]) {
  if constexpr (VN == 1) {
    v[0] = load(b);
  } else {
    VecU words;
    __builtin_memcpy(&words, b, sizeof words);
    v[0] = bitcast<VecF>(words << 16);
    v[1] = bitcast<VecF>(words & 0xffff0000u);
  }
}
template <int VN>
INFINITY_INLINE void storePanelRow(float* b, const VecF (&v)[VN]) {
  for (int i = 0; i < VN; ++i) store(b + i * kLanes, v[i]);
}
template <int VN>
INFINITY_INLINE void storePanelRow(uint16_t* b, const VecF (&v)[VN]) {
  if constexpr (VN == 1) {
    store(b, v[0]);
  } else {
    const VecU words =
        __builtin_convertvector(narrow(v[0]), VecU) | (__builtin_convertvector(narrow(v[1]), VecU) << 16);
    __builtin_memcpy(b, &words, sizeof words);
  }
}

/// tile[r·VN·kLanes + j] = Σ_k a(r, k) · b[k·VN·kLanes + j] for r < R; b is a panel of f32 or bf16.
template <int R, int VN, TileOrder order, class B>
void microKernel(int kc, const float* a, const B* b, float* tile) {
  VecF acc[R][VN];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < VN; ++v) acc[r][v] = VecF{};
  }
  for (int k = 0; k < kc; ++k) {
    VecF bv[VN];
    loadPanelRow<VN>(b, bv);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const VecF av = splat(order == TileOrder::rows ? a[r * kRowStride] : a[r]);
#pragma GCC unroll 4
      for (int v = 0; v < VN; ++v) acc[r][v] = fma(av, bv[v], acc[r][v]);
    }
    b += VN * kLanes;
    a += order == TileOrder::rows ? 1 : R;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < VN; ++v) store(tile + (r * VN + v) * kLanes, acc[r][v]);
  }
}

template <class B>
using MicroKernel = void (*)(int kc, const float* a, const B* b, float* tile);

template <int VN, TileOrder order, class B, int R>
constexpr MicroKernel<B> pickMicroKernel(int rows) {
  if constexpr (R == 0) {
    return nullptr;
  } else {
    return rows == R ? &microKernel<R, VN, order, B> : pickMicroKernel<VN, order, B, R - 1>(rows);
  }
}

/// The kernel for 1 ≤ rows ≤ kMR and a panel of 1 or kVN vectors.
template <TileOrder order, class B>
MicroKernel<B> microKernelFor(int rows, int vectors) {
  return vectors == kVN ? pickMicroKernel<kVN, order, B, kMR>(rows) : pickMicroKernel<1, order, B, kMR>(rows);
}

/// Rows of the next tile when `left` remain: full tiles, and the last two share what is left evenly.
INFINITY_INLINE int tileRows(int64_t left) {
  if (left <= kMR) return static_cast<int>(left);
  return left >= 2 * kMR ? kMR : static_cast<int>((left + 1) / 2);
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
