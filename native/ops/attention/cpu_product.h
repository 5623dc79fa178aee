// The little matrix products of attention: operands as they lie in memory, sums in registers.
#pragma once
#include "cpu/simd.h"
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace infinity::INFINITY_ISA {
namespace {

// Rows of c held in registers, beside two vectors of b: enough chains to hide the latency of a multiply-add.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kProductRows = 8;
#else
constexpr int kProductRows = 4;
#endif

// c[r·ldc + j] (+)= Σ_t a[r·rowStep + t·termStep] · b[t·ldb + j] for r < rows, j < cols: one chain over ascending t.
template <class T>
struct Product {
  const T* a;
  int64_t rowStep, termStep;
  const T* b;
  int64_t ldb, terms;
  T* c;
  int64_t ldc;
  bool accumulate;

  void run(int64_t rows, int64_t cols) const {
    constexpr int lanes = lanesOf<T>;
    int64_t j = 0;
    for (; j + 2 * lanes <= cols; j += 2 * lanes) columns<2>(rows, j, lanes);
    if (j + lanes < cols) {
      columns<2>(rows, j, static_cast<int>(cols - j - lanes));
    } else if (j < cols) {
      columns<1>(rows, j, static_cast<int>(cols - j));
    }
  }

 private:
  // V vectors of columns, the last of them with `last` lanes.
  template <int V>
  void columns(int64_t rows, int64_t j, int last) const {
    if (last == lanesOf<T>)
      someRows<V, false>(rows, j, last);
    else
      someRows<V, true>(rows, j, last);
  }
  template <int V, bool tail>
  void someRows(int64_t rows, int64_t j, int last) const {
    int64_t r = 0;
    for (; r + kProductRows <= rows; r += kProductRows) block<kProductRows, V, tail>(r, j, last);
    if constexpr (kProductRows > 4) {
      if (r + 4 <= rows) block<4, V, tail>(r, j, last), r += 4;
    }
    if (r + 2 <= rows) block<2, V, tail>(r, j, last), r += 2;
    if (r < rows) block<1, V, tail>(r, j, last);
  }
  template <int R, int V, bool tail>
  void block(int64_t row, int64_t j, int last) const {
    constexpr int lanes = lanesOf<T>;
    const auto fetch = [last](const T* p, int v) {
      return tail && v == V - 1 ? loadTail(p + v * lanes, last) : load(p + v * lanes);
    };
    T* to = c + row * ldc + j;
    Vec<T> sum[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[r][v] = accumulate ? fetch(to + r * ldc, v) : Vec<T>{};
    const T *pa = a + row * rowStep, *pb = b + j;
    for (int64_t t = 0; t < terms; ++t, pa += termStep, pb += ldb) {
      Vec<T> bv[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) bv[v] = fetch(pb, v);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Vec<T> av = splat(pa[r * rowStep]);
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sum[r][v] = fma(av, bv[v], sum[r][v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        if (tail && v == V - 1)
          storeTail(to + r * ldc + v * lanes, sum[r][v], last);
        else
          store(to + r * ldc + v * lanes, sum[r][v]);
      }
  }
};

// Σ_d a[d]·b[d]
template <class T>
T dotRow(const T* a, const T* b, int64_t width) {
  Vec<T> sum = {};
  for (int64_t d = 0; d < width; d += lanesOf<T>) {
    const int n = width - d < lanesOf<T> ? static_cast<int>(width - d) : lanesOf<T>;
    sum = fma(loadUpTo(a + d, n), loadUpTo(b + d, n), sum);
  }
  return hsum(sum);
}

// to[c·padded + r] = from[r·ld + c] · factor for r < rows, c < cols; rows up to `padded` become zeros.
template <class T>
void transposeScaled(const T* from, int64_t ld, int64_t rows, int64_t cols, T factor, T* to, int64_t padded) {
  int64_t r = 0;
#if defined(__x86_64__)
  if constexpr (sizeof(T) == 4) {
    const __m128 f = _mm_set1_ps(factor);
    for (; r + 4 <= rows; r += 4) {
      const float* p = from + r * ld;
      int64_t c = 0;
      for (; c + 4 <= cols; c += 4) {
        __m128 x0 = _mm_loadu_ps(p + c) * f, x1 = _mm_loadu_ps(p + ld + c) * f;
        __m128 x2 = _mm_loadu_ps(p + 2 * ld + c) * f, x3 = _mm_loadu_ps(p + 3 * ld + c) * f;
        _MM_TRANSPOSE4_PS(x0, x1, x2, x3);
        _mm_storeu_ps(to + c * padded + r, x0);
        _mm_storeu_ps(to + (c + 1) * padded + r, x1);
        _mm_storeu_ps(to + (c + 2) * padded + r, x2);
        _mm_storeu_ps(to + (c + 3) * padded + r, x3);
      }
      for (; c < cols; ++c)
        for (int64_t i = 0; i < 4; ++i) to[c * padded + r + i] = p[i * ld + c] * factor;
    }
  }
#endif
  for (; r < padded; ++r)
    for (int64_t c = 0; c < cols; ++c) to[c * padded + r] = r < rows ? from[r * ld + c] * factor : T(0);
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
