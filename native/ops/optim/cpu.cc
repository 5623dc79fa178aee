#include "ops/optim/optim.h"

#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/reduce/chunks.h"

namespace infinity::INFINITY_ISA {
namespace {

// Tensors of a list are cut into tiles of their own, so that small ones share the pool with large ones: first[k] tiles
// lie before those of tensor k.
int64_t layTiles(const TensorView* list, int64_t tensors, int64_t* first) {
  int64_t tiles = 0;
  for (int64_t k = 0; k < tensors; ++k) {
    first[k] = tiles;
    tiles += tilesFor(list[k].size());
  }
  return tiles;
}

// Calls f(k, begin, end) for the tiles of every tensor k of a list.
template <class F>
void forTiles(const KernelArgs& a, const TensorView* list, int64_t tensors, int64_t* first, const F& f) {
  a.pool->parallelFor(layTiles(list, tensors, first), [&](int64_t tile) {
    int64_t k = 0;
    for (int64_t above = tensors; above - k > 1;) {
      const int64_t middle = (k + above) / 2;
      (first[middle] <= tile ? k : above) = middle;
    }
    const int64_t begin = (tile - first[k]) * kElementsPerTile, size = list[k].size();
    f(k, begin, size < begin + kElementsPerTile ? size : begin + kElementsPerTile);
  });
}

// Calls f(i, n) for n ≤ lanes elements from i.
template <class T, class F>
INFINITY_INLINE void forVectors(int64_t begin, int64_t end, const F& f) {
  constexpr int lanes = lanesOf<T>;
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) f(i, lanes);
  if (i < end) f(i, static_cast<int>(end - i));
}

size_t adamwPlan(const KernelArgs& a) { return a.paramsAs<AdamWParams>().tensors * sizeof(int64_t); }

// Decoupled weight decay comes first, as in torch.optim.AdamW; the average is one of what the update leaves. A tensor
// without a gradient stays as it is, and its average follows it.
template <class T>
void adamwKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<AdamWParams>();
  const int64_t n = p.tensors;
  const T factor = a.in[0] ? *a.in[0].as<T>() : T(1);
  forTiles(a, a.out, n, static_cast<int64_t*>(a.scratch), [&](int64_t k, int64_t begin, int64_t end) {
    const T* gradient = a.in[1 + k].as<T>();
    T *parameter = a.out[k].as<T>(), *first = a.out[n + k].as<T>(), *second = a.out[2 * n + k].as<T>();
    T* average = p.averaged ? a.out[3 * n + k].as<T>() : nullptr;
    forVectors<T>(begin, end, [&](int64_t i, int lanes) {
      Vec<T> x = loadUpTo(parameter + i, lanes);
      if (gradient) {
        const Vec<T> g = loadUpTo(gradient + i, lanes) * splat(factor);
        const Vec<T> m = fma(splatTo<T>(p.oneMinusBeta1), g, splatTo<T>(p.beta1) * loadUpTo(first + i, lanes));
        const Vec<T> v = fma(splatTo<T>(p.oneMinusBeta2) * g, g, splatTo<T>(p.beta2) * loadUpTo(second + i, lanes));
        const Vec<T> scale = sqrt(v) / splatTo<T>(p.rootCorrection) + splatTo<T>(p.eps);
        x = x * splatTo<T>(p.keep) - splatTo<T>(p.stepSize) * (m / scale);
        storeUpTo(first + i, m, lanes);
        storeUpTo(second + i, v, lanes);
        storeUpTo(parameter + i, x, lanes);
      }
      if (average)
        storeUpTo(average + i,
                  fma(splatTo<T>(p.oneMinusAverageDecay), x, splatTo<T>(p.averageDecay) * loadUpTo(average + i, lanes)),
                  lanes);
    });
  });
}

constexpr int64_t kChunksPerTile = kElementsPerTile / kSumChunk;

// Where tiles begin, then a sum for each chunk of every tile.
size_t sumSquaresPlan(const KernelArgs& a) {
  const int64_t n = a.paramsAs<SumSquaresParams>().tensors;
  int64_t tiles = 0;
  for (int64_t k = 0; k < n; ++k) tiles += tilesFor(a.in[k].size());
  return n * sizeof(int64_t) + tiles * kChunksPerTile * sizeof(double);
}

// in: n tensors; out: the sum of the squares of each, [n].
template <class T>
void sumSquaresKernel(const KernelArgs& a) {
  const int64_t n = a.paramsAs<SumSquaresParams>().tensors;
  auto* first = static_cast<int64_t*>(a.scratch);
  auto* partial = reinterpret_cast<double*>(first + n);
  forTiles(a, a.in, n, first, [&](int64_t k, int64_t begin, int64_t end) {
    const T* x = a.in[k].as<T>();
    double* sums = partial + first[k] * kChunksPerTile;
    for (int64_t i = begin; i < end; i += kSumChunk)
      sums[i / kSumChunk] = sumOfChunk(i, end < i + kSumChunk ? end : i + kSumChunk, [x](int64_t at) {
        const double v = static_cast<double>(x[at]);
        return v * v;
      });
  });
  for (int64_t k = 0; k < n; ++k) {
    double sum = 0;
    for (int64_t c = 0; c < tilesFor(a.in[k].size(), kSumChunk); ++c) sum += partial[first[k] * kChunksPerTile + c];
    a.out[0].as<T>()[k] = static_cast<T>(sum);
  }
}

// in: sums of squares [n]; out: the norm of all of them together, and min(1, maxNorm / (norm + 1e-6)) as in
// torch.nn.utils.clip_grad_norm_. A NaN stays one.
template <class T>
void clipFactorKernel(const KernelArgs& a) {
  double sum = 0;
  for (int64_t i = 0; i < a.in[0].size(); ++i) sum += static_cast<double>(a.in[0].as<T>()[i]);
  const double norm = __builtin_sqrt(sum), factor = a.paramsAs<ClipFactorParams>().maxNorm / (norm + 1e-6);
  *a.out[0].as<T>() = static_cast<T>(norm);
  *a.out[1].as<T>() = static_cast<T>(factor > 1 ? 1 : factor);
}

}  // namespace

INFINITY_KERNEL(adamw, adamwKernel<float>, adamwKernel<double>, adamwPlan);
INFINITY_KERNEL(sum_squares, sumSquaresKernel<float>, sumSquaresKernel<double>, sumSquaresPlan);
INFINITY_KERNEL(clip_factor, clipFactorKernel<float>, clipFactorKernel<double>, nullptr);

}  // namespace infinity::INFINITY_ISA
