// A sum over all elements in double precision, in an order that only the length decides: sixteen running sums a chunk,
// the chunks one after the other.
#pragma once
#include "cpu/kernel.h"
#include "cpu/simd.h"

namespace infinity::INFINITY_ISA {
namespace {

constexpr int64_t kSumChunk = 4096;

// Σ term(i) for begin ≤ i < end, at most a chunk.
template <class F>
INFINITY_INLINE double sumOfChunk(int64_t begin, int64_t end, const F& term) {
  double sums[16] = {};
  int64_t i = begin;
  for (; i + 16 <= end; i += 16)
    for (int k = 0; k < 16; ++k) sums[k] += term(i + k);
  for (int k = 0; i < end; ++i, ++k) sums[k] += term(i);
  for (int half = 8; half > 0; half /= 2)
    for (int k = 0; k < half; ++k) sums[k] += sums[k + half];
  return sums[0];
}

inline size_t chunkSumBytes(int64_t n) { return static_cast<size_t>(tilesFor(n, kSumChunk)) * sizeof(double); }

// Σ term(i) for i < n; the scratch of the command holds chunkSumBytes(n).
template <class F>
double chunkSum(const KernelArgs& a, int64_t n, const F& term) {
  constexpr int64_t chunksPerTile = kElementsPerTile / kSumChunk;
  auto* partial = static_cast<double*>(a.scratch);
  const int64_t chunks = tilesFor(n, kSumChunk);
  a.pool->parallelFor(tilesFor(chunks, chunksPerTile), [&](int64_t tile) {
    const int64_t last = chunks < (tile + 1) * chunksPerTile ? chunks : (tile + 1) * chunksPerTile;
    for (int64_t chunk = tile * chunksPerTile; chunk < last; ++chunk) {
      const int64_t end = n < (chunk + 1) * kSumChunk ? n : (chunk + 1) * kSumChunk;
      partial[chunk] = sumOfChunk(chunk * kSumChunk, end, term);
    }
  });
  double sum = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += partial[chunk];
  return sum;
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
