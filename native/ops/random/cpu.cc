#include "ops/random/random.h"

#include "cpu/kernel.h"
#include "cpu/simd.h"

namespace infinity::INFINITY_ISA {
namespace {

constexpr int kBlocks = 64;  // Philox blocks side by side, so that a round is one loop over vectors
constexpr int64_t kBlocksPerTile = 1024;

// words[4 · k + i] = word i of block `first` + k: philox4x32 of core/philox.h, many at once.
void philoxBlocks(const UniformParams& p, uint32_t image, uint32_t first, uint32_t* words) {
  uint32_t c0[kBlocks], c1[kBlocks], c2[kBlocks], c3[kBlocks];
  for (int k = 0; k < kBlocks; ++k) {
    c0[k] = first + static_cast<uint32_t>(k);
    c1[k] = p.scale;
    c2[k] = image;
    c3[k] = p.stream;
  }
  uint32_t k0 = p.seedLow, k1 = p.seedHigh;
  for (int round = 0; round < 10; ++round) {
    for (int k = 0; k < kBlocks; ++k) {
      const uint64_t p0 = 0xD2511F53ull * c0[k], p1 = 0xCD9E8D57ull * c2[k];
      c0[k] = static_cast<uint32_t>(p1 >> 32) ^ c1[k] ^ k0;
      c2[k] = static_cast<uint32_t>(p0 >> 32) ^ c3[k] ^ k1;
      c1[k] = static_cast<uint32_t>(p1);
      c3[k] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int k = 0; k < kBlocks; ++k) {
    words[4 * k] = c0[k];
    words[4 * k + 1] = c1[k];
    words[4 * k + 2] = c2[k];
    words[4 * k + 3] = c3[k];
  }
}

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
    uint32_t words[4 * kBlocks];
    for (int64_t block = first; block < last; block += kBlocks) {
      philoxBlocks(p, id, static_cast<uint32_t>(block), words);
      const int64_t count = n - block * 4 < 4 * kBlocks ? n - block * 4 : 4 * kBlocks;
      T* to = y.as<T>() + image * n + block * 4;
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(map(words[i]));
    }
  });
}

template <class T>
void uniformKernel(const KernelArgs& a) {
  fillFromPhilox<T>(a, a.paramsAs<UniformParams>(), [](uint32_t word) { return philoxUniform(word); });
}

template <class T>
void normalKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<NormalParams>();
  fillFromPhilox<T>(a, p.draw, NormalDraw(p));
}

}  // namespace

INFINITY_KERNEL(uniform, uniformKernel<float>, uniformKernel<double>, nullptr);
INFINITY_KERNEL(normal, normalKernel<float>, normalKernel<double>, nullptr);

}  // namespace infinity::INFINITY_ISA
