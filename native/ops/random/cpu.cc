#include "ops/random/random.h"

#include "cpu/kernel.h"
#include "cpu/simd.h"

namespace infinity::INFINITY_ISA {
namespace {

constexpr int64_t kBlocksPerTile = 1024;

// y[element] = map(word) for every element of every image. in[0]: i32 image ids along axis 0, or none: one image.
template <class T, class F>
void fillFromPhilox(const KernelArgs& a, const UniformParams& p, const F& map) {
  const TensorView &ids = a.in[0], &y = a.out[0];
  const int64_t images = ids ? ids.size() : 1, n = y.size() / images;
  const int64_t blocks = (n + 3) / 4, tiles = tilesFor(blocks, kBlocksPerTile);
  a.pool->parallelFor(images * tiles, [&](int64_t tile) {
    const int64_t image = tile / tiles, first = tile % tiles * kBlocksPerTile;
    const int64_t last = blocks < first + kBlocksPerTile ? blocks : first + kBlocksPerTile;
    const uint32_t id = ids ? static_cast<uint32_t>(ids.as<int32_t>()[image]) : p.image;
    T* to = y.as<T>() + image * n;
    for (int64_t block = first; block < last; ++block) {
      const Philox4 words = philox4x32(p.seedLow, p.seedHigh, static_cast<uint32_t>(block), p.scale, id, p.stream);
      const int64_t count = n - block * 4 < 4 ? n - block * 4 : 4;
      for (int64_t i = 0; i < count; ++i) to[block * 4 + i] = static_cast<T>(map(words.v[i]));
    }
  });
}

template <class T>
void uniformKernel(const KernelArgs& a) {
  fillFromPhilox<T>(a, a.paramsAs<UniformParams>(), [](uint32_t word) { return philoxUniform(word); });
}

// By the inverse of the distribution function, restricted to [lo, hi]: one draw an element, truncated or not. The
// middle of the 2^-24 interval is taken, so that neither end is ever asked for.
template <class T>
void normalKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<NormalParams>();
  const double mean = p.mean, std = p.std, lo = p.lo, hi = p.hi;
  const double from = normalCdf((lo - mean) / std), to = normalCdf((hi - mean) / std);
  fillFromPhilox<T>(a, p.draw, [=](uint32_t word) {
    const double u = (static_cast<double>(word >> 8) + 0.5) * 5.9604644775390625e-8;
    const double x = mean + std * normalQuantile(from + (to - from) * u);
    return x < lo ? lo : x > hi ? hi : x;
  });
}

}  // namespace

INFINITY_KERNEL(uniform, uniformKernel<float>, uniformKernel<double>, nullptr);
INFINITY_KERNEL(normal, normalKernel<float>, normalKernel<double>, nullptr);

}  // namespace infinity::INFINITY_ISA
