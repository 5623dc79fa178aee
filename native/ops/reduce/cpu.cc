#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/elementwise/elementwise.h"

namespace infinity::INFINITY_ISA {
namespace {

// Sums x down to the right-aligned shape of the output: the gradient of broadcasting. Each output element adds its
// terms in row-major order of x, whatever the tile.
template <class T>
void sumToKernel(const KernelArgs& a) {
  const TensorView &x = a.in[0], &y = a.out[0];
  int64_t outStride[kMaxRank];
  broadcastStrides(y, x, outStride);
  // Axes of x that are kept, and axes that are summed, each as (extent, stride in x).
  int64_t keptExtent[kMaxRank], keptStride[kMaxRank], sumExtent[kMaxRank], sumStride[kMaxRank];
  int kept = 0, summed = 0;
  int64_t stride = 1, terms = 1;
  for (int axis = static_cast<int>(x.rank) - 1; axis >= 0; --axis) {
    if (outStride[axis]) {
      keptExtent[kept] = x.dims[axis];
      keptStride[kept++] = stride;
    } else if (x.dims[axis] > 1) {
      sumExtent[summed] = x.dims[axis];
      sumStride[summed++] = stride;
      terms *= x.dims[axis];
    }
    stride *= x.dims[axis];
  }
  const int64_t n = y.size();
  const bool innerKept = kept && keptStride[0] == 1;
  const int64_t columns = innerKept ? keptExtent[0] : 1;
  const int64_t group = 256;  // output columns a tile, so that rows of x are read in runs
  const int64_t groups = tilesFor(columns, group);
  a.pool->parallelFor(n / columns * groups, [&](int64_t tile) {
    const int64_t outer = tile / groups, first = tile % groups * group;
    const int64_t width = columns - first < group ? columns - first : group;
    int64_t base = 0, rest = outer;
    for (int i = innerKept ? 1 : 0; i < kept; ++i) {
      base += rest % keptExtent[i] * keptStride[i];
      rest /= keptExtent[i];
    }
    T sums[256] = {};
    const T* source = x.as<T>() + base + first;
    for (int64_t t = 0; t < terms; ++t) {
      int64_t at = 0, index = t;
      for (int i = 0; i < summed; ++i) {
        at += index % sumExtent[i] * sumStride[i];
        index /= sumExtent[i];
      }
      const T* row = source + at;
      for (int64_t c = 0; c < width; ++c) sums[c] += row[c];
    }
    T* out = y.as<T>() + outer * columns + first;
    for (int64_t c = 0; c < width; ++c) out[c] = sums[c];
  });
}

}  // namespace

INFINITY_KERNEL(sum_to, sumToKernel<float>, sumToKernel<double>, nullptr);

}  // namespace infinity::INFINITY_ISA
