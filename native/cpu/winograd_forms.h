// Transforms of the convolutions with fewer multiplications, see cpu/winograd.h. A form tells how many pixels a tile
// sees (kWindow), at how many points they are multiplied (kPoints) and how many pixels they become (kOut), along each
// axis; its transforms are applied to the columns, then to the rows.
#pragma once
#include "cpu/conv.h"

namespace infinity::INFINITY_ISA {
namespace {

/// F(4×4, 3×3): 36 multiplications for 16 pixels of a 3 × 3 convolution. Points 0, ±√½, ±√2, ∞:
/// of the choices whose halves are shared, about the smallest error (docs/decisions.md).
struct WinogradF4 {
  static constexpr int kWindow = 6, kPoints = 6, kOut = 4;
  static constexpr int kStep = 4;  // pixels of the input between two tiles

  static INFINITY_INLINE void input(const VecF (&d)[6], VecF (&v)[6]) {
    const VecF root = splat(1.41421356237309505f), half = splat(0.70710678118654752f);
    v[0] = fma(splat(-2.5f), d[2], d[0] + d[4]);
    const VecF evenA = fma(splat(-2.0f), d[2], d[4]), oddA = fma(splat(-2.0f), d[1], d[3]);
    v[1] = fma(half, oddA, evenA);
    v[2] = fma(-half, oddA, evenA);
    const VecF evenB = fma(splat(-0.5f), d[2], d[4]), oddB = fma(splat(-0.5f), d[1], d[3]);
    v[3] = fma(root, oddB, evenB);
    v[4] = fma(-root, oddB, evenB);
    v[5] = fma(splat(-2.5f), d[3], d[1] + d[5]);
  }
  static INFINITY_INLINE void weights(const VecF (&g)[3], VecF (&u)[6]) {
    // Divided by the product of distances to the other points: −3/2 at ±√½ and 6 at ±√2.
    const VecF third = splat(1.0f / 3), oddA = g[1] * splat(-0.47140452079103168f);
    const VecF oddB = g[1] * splat(0.23570226039551584f);
    u[0] = g[0];
    const VecF evenA = fma(splat(-2.0f), g[0], -g[2]) * third;
    u[1] = evenA + oddA;
    u[2] = evenA - oddA;
    const VecF evenB = fma(splat(0.5f), g[0], g[2]) * third;
    u[3] = evenB + oddB;
    u[4] = evenB - oddB;
    u[5] = g[2];
  }
  static INFINITY_INLINE void output(const VecF (&m)[6], VecF (&y)[4]) {
    const VecF evenA = m[1] + m[2], oddA = m[1] - m[2], evenB = m[3] + m[4], oddB = m[3] - m[4];
    y[0] = m[0] + (evenA + evenB);
    y[1] = fma(splat(1.41421356237309505f), oddB, splat(0.70710678118654752f) * oddA);
    y[2] = fma(splat(2.0f), evenB, splat(0.5f) * evenA);
    y[3] = fma(splat(2.82842712474619010f), oddB, fma(splat(0.35355339059327376f), oddA, m[5]));
  }
};

/// Nearest ×2, then 3 × 3: with k = k₀ + k₁ + k₂ the two results at a position are k·x + k₀·(left − x) and
/// k·x + k₂·(right − x). 9 multiplications for 4 pixels, where the phases take 16.
struct WinogradUpsample {
  static constexpr int kWindow = 3, kPoints = 3, kOut = 2;
  static constexpr int kStep = 1;

  static INFINITY_INLINE void input(const VecF (&d)[3], VecF (&v)[3]) {
    v[0] = d[0] - d[1];
    v[1] = d[1];
    v[2] = d[2] - d[1];
  }
  static INFINITY_INLINE void output(const VecF (&m)[3], VecF (&y)[2]) {
    y[0] = m[0] + m[1];
    y[1] = m[1] + m[2];
  }
};

/// Row of a packed phase that holds tap t of channel c; see packPhase.
constexpr int64_t termRow(int64_t C, int64_t taps, int64_t c, int64_t t) {
  const int64_t chunk = chunkOf(C);
  return c / chunk * chunk * taps + t * chunk + c % chunk;
}

/// The packed weights of a 3 × 3 convolution, transformed.
template <class B>
struct KernelPoints {
  Panels<B> panels;
  int64_t C;
  /// u[point][v] of input channel c and panel p.
  template <int VN>
  void read(int64_t p, int64_t c, VecF (&u)[36][VN]) const {
    VecF taps[9][VN];
    for (int t = 0; t < 9; ++t) loadPanelRow<VN>(panels.panel(p) + termRow(C, 9, c, t) * VN * kLanes, taps[t]);
    for (int v = 0; v < VN; ++v) {
      VecF columns[3][6];
      for (int x = 0; x < 3; ++x) {
        const VecF g[3] = {taps[x][v], taps[3 + x][v], taps[6 + x][v]};
        WinogradF4::weights(g, columns[x]);
      }
      for (int y = 0; y < 6; ++y) {
        const VecF g[3] = {columns[0][y], columns[1][y], columns[2][y]};
        VecF row[6];
        WinogradF4::weights(g, row);
        for (int x = 0; x < 6; ++x) u[y * 6 + x][v] = row[x];
      }
    }
  }
};

/// The packed phases of an upsampling convolution: (k₀, k₁ + k₂) and (k₀ + k₁, k₂) along each axis.
template <class B>
struct PhasePoints {
  Panels<B> phases[4];
  int64_t C;
  template <int VN>
  void read(int64_t p, int64_t c, VecF (&u)[9][VN]) const {
    for (int y = 0; y < 3; ++y) {
      for (int x = 0; x < 3; ++x) {
        // k₀ and k are in the first phase, k₂ is in the second; k is the sum of both its taps.
        const Panels<B>& from = phases[y / 2 * 2 + x / 2];
        VecF sum[VN] = {};
        for (int i = y == 2; i <= (y > 0); ++i) {
          for (int j = x == 2; j <= (x > 0); ++j) {
            VecF tap[VN];
            loadPanelRow<VN>(from.panel(p) + termRow(C, 4, c, i * 2 + j) * VN * kLanes, tap);
            for (int v = 0; v < VN; ++v) sum[v] = sum[v] + tap[v];
          }
        }
        for (int v = 0; v < VN; ++v) u[y * 3 + x][v] = sum[v];
      }
    }
  }
};

}  // namespace
}  // namespace infinity::INFINITY_ISA
