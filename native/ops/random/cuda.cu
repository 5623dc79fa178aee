#include "ops/random/random.h"

#include "cuda/map.cuh"
#include "cuda/walk.cuh"

namespace infinity::cuda {
namespace {

struct UniformDraw {
  __device__ float operator()(uint32_t word) const { return philoxUniform(word); }
};

// y[image][element] = draw(word): a thread takes a block of four words. ids: i32, one an image, or null.
template <bool Packed, class I, class Draw>
__global__ void __launch_bounds__(kMapThreads)
    philoxKernel(float* y, const int32_t* ids, UniformParams p, I perImage, Divisor<I> blocks, I total, Draw draw) {
  for (I i = static_cast<I>(blockIdx.x) * kMapThreads + threadIdx.x; i < total; i += gridDim.x * kMapThreads) {
    const I image = blocks.divide(i), block = i - image * blocks.value;
    const uint32_t id = ids ? static_cast<uint32_t>(ids[image]) : p.image;
    const Philox4 words = philox4x32(p.seedLow, p.seedHigh, static_cast<uint32_t>(block), p.scale, id, p.stream);
    Pack<float, 4> x;
#pragma unroll
    for (int e = 0; e < 4; ++e) x.v[e] = static_cast<float>(draw(words.v[e]));
    float* to = y + static_cast<size_t>(image) * perImage + static_cast<size_t>(block) * 4;
    if (Packed) {
      storePack(to, x);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (block * 4 + e < perImage) to[e] = x.v[e];
    }
  }
}

template <class Draw>
void fillFromPhilox(const KernelArgs& a, const char* name, const UniformParams& p, const Draw& draw) {
  const TensorView& y = a.out[0];
  const int64_t images = a.in[0] ? a.in[0].size() : 1, perImage = y.size() / images, blocks = ceilDiv(perImage, 4);
  withIndex(y.size() + 3 * images, [&](auto index) {
    using I = decltype(index);
    const auto run = [&](auto kernel) {
      launch(a, name, kernel, overElements(a, images * blocks, 1, kMapThreads), y.as<float>(), a.in[0].as<int32_t>(), p,
             static_cast<I>(perImage), Divisor<I>(blocks), static_cast<I>(images * blocks), draw);
    };
    if (perImage % 4 == 0 && aligned(y.data, 16))
      run(philoxKernel<true, I, Draw>);
    else
      run(philoxKernel<false, I, Draw>);
  });
}

void launchUniform(const KernelArgs& a) { fillFromPhilox(a, "uniform", a.paramsAs<UniformParams>(), UniformDraw{}); }

void launchNormal(const KernelArgs& a) {
  const auto& p = a.paramsAs<NormalParams>();
  fillFromPhilox(a, "normal", p.draw, NormalDraw(p));
}

}  // namespace

INFINITY_CUDA_KERNEL(uniform, launchUniform, nullptr, nullptr);
INFINITY_CUDA_KERNEL(normal, launchNormal, nullptr, nullptr);

}  // namespace infinity::cuda
