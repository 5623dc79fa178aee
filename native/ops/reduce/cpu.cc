#include "ops/reduce/reduce.h"

#include "cpu/kernel.h"
#include "cpu/simd.h"

namespace infinity::INFINITY_ISA {
namespace {

constexpr int64_t kColumns = 1024;  // columns a tile: their sums stay in the first cache
constexpr int64_t kRun = 64;        // columns whose partial sums are added up together

template <class T>
T sumRun(const T* x, int64_t n) {
  constexpr int lanes = lanesOf<T>;
  Vec<T> s0 = splatTo<T>(0), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    s0 = s0 + load(x + i);
    s1 = s1 + load(x + i + lanes);
    s2 = s2 + load(x + i + 2 * lanes);
    s3 = s3 + load(x + i + 3 * lanes);
  }
  for (; i + lanes <= n; i += lanes) s0 = s0 + load(x + i);
  if (i < n) s1 = s1 + loadTail(x + i, static_cast<int>(n - i));
  return hsum((s0 + s1) + (s2 + s3));
}

// sums[c] = Σ_t x[t · stride + c] for c < width, four rows at a time.
template <class T>
void sumColumns(const T* x, int64_t terms, int64_t stride, int64_t width, T* sums) {
  constexpr int lanes = lanesOf<T>;
  for (int64_t c = 0; c < width; ++c) sums[c] = 0;
  int64_t t = 0;
  for (; t + 4 <= terms; t += 4, x += 4 * stride) {
    int64_t c = 0;
    for (; c + lanes <= width; c += lanes)
      store(sums + c, load(sums + c) + ((load(x + c) + load(x + c + stride)) +
                                        (load(x + c + 2 * stride) + load(x + c + 3 * stride))));
    for (; c < width; ++c) sums[c] += (x[c] + x[c + stride]) + (x[c + 2 * stride] + x[c + 3 * stride]);
  }
  for (; t < terms; ++t, x += stride) {
    int64_t c = 0;
    for (; c + lanes <= width; c += lanes) store(sums + c, load(sums + c) + load(x + c));
    for (; c < width; ++c) sums[c] += x[c];
  }
}

size_t sumAxesPlan(const KernelArgs& a) {
  const ReduceShape s(a.in[0], a.paramsAs<SumAxesParams>());
  if (s.chunks() == 1) return 0;
  return static_cast<size_t>(s.outer * s.chunks() * s.inner) * dtypeBytes(a.in[0].dtype);
}

// Partial sums of a fixed number of terms in T, added up in double: accurate, and the same for any tiling.
template <class T>
void sumAxesKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<SumAxesParams>();
  const ReduceShape s(a.in[0], p);
  const T* x = a.in[0].as<T>();
  T* y = a.out[0].as<T>();
  const int64_t chunk = s.chunk(), chunks = s.chunks(), inner = s.inner;
  T* partial = chunks == 1 ? y : static_cast<T*>(a.scratch);
  const int64_t groups = tilesFor(inner, kColumns);
  const int64_t work = (chunk < s.n ? chunk : s.n) * (inner < kColumns ? inner : kColumns);
  const int64_t batch = work >= kElementsPerTile ? 1 : kElementsPerTile / work;
  const int64_t pieces = s.outer * chunks * groups;
  a.pool->parallelFor(tilesFor(pieces, batch), [&](int64_t tile) {
    const int64_t end = pieces < (tile + 1) * batch ? pieces : (tile + 1) * batch;
    for (int64_t piece = tile * batch; piece < end; ++piece) {
      const int64_t group = piece % groups, k = piece / groups % chunks, o = piece / groups / chunks;
      const int64_t terms = s.n - k * chunk < chunk ? s.n - k * chunk : chunk;
      const T* from = x + (o * s.n + k * chunk) * inner + group * kColumns;
      T* to = partial + (o * chunks + k) * inner + group * kColumns;
      if (inner == 1) {
        *to = sumRun(from, terms);
      } else {
        sumColumns(from, terms, inner, inner - group * kColumns < kColumns ? inner - group * kColumns : kColumns, to);
      }
    }
  });
  const double divisor = p.mean ? static_cast<double>(s.n) : 1;
  if (chunks == 1 && !p.mean) return;
  const int64_t results = s.outer * inner, perTile = kElementsPerTile / 4;
  a.pool->parallelFor(tilesFor(results, perTile), [&](int64_t tile) {
    const int64_t end = results < (tile + 1) * perTile ? results : (tile + 1) * perTile;
    for (int64_t i = tile * perTile; i < end;) {
      const int64_t column = i % inner;
      int64_t width = inner - column < kRun ? inner - column : kRun;
      if (width > end - i) width = end - i;
      const T* from = partial + i / inner * chunks * inner + column;
      double sums[kRun] = {};
      for (int64_t k = 0; k < chunks; ++k)
        for (int64_t c = 0; c < width; ++c) sums[c] += from[k * inner + c];
      for (int64_t c = 0; c < width; ++c) y[i + c] = static_cast<T>(sums[c] / divisor);
      i += width;
    }
  });
}

}  // namespace

INFINITY_KERNEL(sum_axes, sumAxesKernel<float>, sumAxesKernel<double>, sumAxesPlan);

}  // namespace infinity::INFINITY_ISA
