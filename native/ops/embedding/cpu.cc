#include "ops/embedding/embedding.h"

#include "cpu/kernel.h"
#include "cpu/simd.h"

namespace infinity::INFINITY_ISA {
namespace {

constexpr const char* kOutOfRange = "Expected ids below the number of rows of the table but received one outside.";
constexpr int64_t kColumns = 128;  // columns a tile of the backward pass

// in: table [V, C], ids i32 [...]; out: [..., C]
template <class T>
void embeddingKernel(const KernelArgs& a) {
  const TensorView &table = a.in[0], &ids = a.in[1];
  if (!idsInRange(ids, table.dims[0])) return a.fail("INVALID_ARGUMENT", kOutOfRange);
  const int64_t n = ids.size(), c = table.dims[1];
  const int64_t rowsPerTile = c >= kElementsPerTile ? 1 : kElementsPerTile / c;
  a.pool->parallelFor(tilesFor(n, rowsPerTile), [&](int64_t tile) {
    const int64_t last = n < (tile + 1) * rowsPerTile ? n : (tile + 1) * rowsPerTile;
    for (int64_t i = tile * rowsPerTile; i < last; ++i)
      __builtin_memcpy(a.out[0].as<T>() + i * c, table.as<T>() + ids.as<int32_t>()[i] * c,
                       static_cast<size_t>(c) * sizeof(T));
  });
}

// in: gy [..., C], ids i32 [...]; out: the gradient of the table [V, C]. A tile holds some columns of all rows, so that
// every row adds up its occurrences in the order of the ids.
template <class T>
void embeddingBackwardKernel(const KernelArgs& a) {
  const TensorView &gy = a.in[0], &ids = a.in[1], &out = a.out[0];
  if (!idsInRange(ids, out.dims[0])) return a.fail("INVALID_ARGUMENT", kOutOfRange);
  const int64_t n = ids.size(), v = out.dims[0], c = out.dims[1];
  a.pool->parallelFor(tilesFor(c, kColumns), [&](int64_t tile) {
    const int64_t first = tile * kColumns, width = c - first < kColumns ? c - first : kColumns;
    T* g = out.as<T>() + first;
    for (int64_t row = 0; row < v; ++row)
      for (int64_t j = 0; j < width; ++j) g[row * c + j] = 0;
    for (int64_t i = 0; i < n; ++i) {
      const T* from = gy.as<T>() + i * c + first;
      T* to = g + ids.as<int32_t>()[i] * c;
      int64_t j = 0;
      for (; j + lanesOf<T> <= width; j += lanesOf<T>) store(to + j, load(to + j) + load(from + j));
      for (; j < width; ++j) to[j] += from[j];
    }
  });
}

}  // namespace

INFINITY_KERNEL(embedding, embeddingKernel<float>, embeddingKernel<double>, nullptr);
INFINITY_KERNEL(embedding_backward, embeddingBackwardKernel<float>, embeddingBackwardKernel<double>, nullptr);

}  // namespace infinity::INFINITY_ISA
