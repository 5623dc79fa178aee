// B packed for the micro-kernel: panels of kNR columns, each panel k-major and contiguous, the last one narrower when
// one vector is enough. Missing columns are zeros. Packed once for weights that stay, or into scratch for one product.
#pragma once
#include "cpu/microkernel.h"
#include "cpu/pool.h"

namespace infinity::INFINITY_ISA {
namespace {

constexpr int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// A packed matrix of K rows and N columns, f32 or bf16.
template <class B>
struct Panels {
  B* data;
  int64_t K, N;

  int64_t count() const { return (N + kNR - 1) / kNR; }
  B* panel(int64_t p) const { return data + p * kNR * K; }
  int64_t columns(int64_t p) const { return p + 1 < count() ? kNR : N - p * kNR; }
  int vectors(int64_t p) const { return columns(p) > kLanes ? kVN : 1; }
};

/// Elements that K × N takes when packed.
inline int64_t packedElements(int64_t K, int64_t N) {
  const int64_t rest = N % kNR;
  return K * (N / kNR * kNR + (rest == 0 ? 0 : rest > kLanes ? kNR : kLanes));
}

/// Bytes of the same in f32, whole cache lines.
inline size_t panelBytes(int64_t K, int64_t N) { return ceilDiv(packedElements(K, N), 16) * 64; }

INFINITY_INLINE float asFloat(float x) { return x; }
INFINITY_INLINE float asFloat(uint16_t x) { return fromBf16(x); }

template <class B>
INFINITY_INLINE void storeRow(B* panel, int64_t k, const float* row, int vectors) {
  if (vectors == kVN) {
    const VecF v[kVN] = {load(row), load(row + kLanes)};
    storePanelRow<kVN>(panel + k * kNR, v);
  } else {
    const VecF v[1] = {load(row)};
    storePanelRow<1>(panel + k * kLanes, v);
  }
}

/// Packs columns [p·kNR, …) of the K × N matrix b(k, n) = source[k·strideK + n·strideN] at row `k0` of the panel.
template <class B, class S>
void packPanelRows(const Panels<B>& to, int64_t p, int64_t k0, int64_t rows, const S* source, int64_t strideK,
                   int64_t strideN) {
  constexpr int kBlock = 16;  // a cache line of f32 from every column at a time
  const int columns = static_cast<int>(to.columns(p)), vectors = to.vectors(p);
  B* panel = to.panel(p);
  source += p * kNR * strideN;
  alignas(64) float block[kBlock][kNR] = {};
  for (int64_t k = 0; k < rows; k += kBlock) {
    const int height = static_cast<int>(rows - k < kBlock ? rows - k : kBlock);
    if (strideN == 1) {
      for (int i = 0; i < height; ++i) {
        const S* from = source + (k + i) * strideK;
        for (int j = 0; j < columns; ++j) block[i][j] = asFloat(from[j]);
      }
    } else {
      for (int j = 0; j < columns; ++j) {
        const S* from = source + k * strideK + j * strideN;
        for (int i = 0; i < height; ++i) block[i][j] = asFloat(from[i * strideK]);
      }
    }
    for (int i = 0; i < height; ++i) storeRow(panel, k0 + k + i, block[i], vectors);
  }
}

/// Packs all of b(k, n) = source[k·strideK + n·strideN].
template <class B, class S>
void packMatrix(Pool& pool, const Panels<B>& to, const S* source, int64_t strideK, int64_t strideN) {
  // Pieces of about the same size whatever the shape: a panel is cut along K.
  constexpr int64_t kPiece = 512;
  const int64_t pieces = (to.K + kPiece - 1) / kPiece;
  pool.parallelFor(to.count() * pieces, [&](int64_t t) {
    const int64_t p = t / pieces, k0 = t % pieces * kPiece;
    const int64_t rows = to.K - k0 < kPiece ? to.K - k0 : kPiece;
    packPanelRows(to, p, k0, rows, source + k0 * strideK, strideK, strideN);
  });
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
