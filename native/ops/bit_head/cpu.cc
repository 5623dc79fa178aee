// Product, then the loops of ops/bits: the definition that fused kernels are compared with.
#include "cpu/gemm.h"
#include "ops/bit_head/bit_head.h"
#include "ops/bits/loss.h"
#include "ops/bits/sample.h"
#include "ops/linear/linear.h"

namespace infinity::INFINITY_ISA {
namespace {

// ---- gaps = x·Wᵀ + b; `memory` holds productBytes

size_t productBytes(const KernelArgs& a, int64_t D) {
  return a.in[0].dtype == DType::f64 ? 0 : panelBytes(a.in[0].cols(), D);
}

void gapsOf(const KernelArgs& a, const float* x, int64_t rows, int64_t D, float* gaps, void* memory) {
  const int64_t K = a.in[0].cols();
  const Panels<float> panels = {static_cast<float*>(memory), K, D};
  if (a.in[1].dtype == DType::bf16) {
    packMatrix(*a.pool, panels, a.in[1].as<uint16_t>(), 1, K);
  } else {
    packMatrix(*a.pool, panels, a.in[1].as<float>(), 1, K);
  }
  product(*a.pool, rows, MatrixRows{x, K}, panels, MatrixOut{gaps, D}, AddBias{a.in[2].as<float>()});
}

TensorView matrix(const double* data, int64_t rows, int64_t cols) {
  return {const_cast<double*>(data), DType::f64, 2, {static_cast<uint32_t>(rows), static_cast<uint32_t>(cols)}};
}
void gapsOf(const KernelArgs& a, const double* x, int64_t rows, int64_t D, double* gaps, void*) {
  const TensorView in[5] = {matrix(x, rows, a.in[0].cols()), a.in[1], a.in[2], {}, {}};
  linearReference(in, matrix(gaps, rows, D), false, [](double y) { return y; });
}

// ---- sampling

template <class T>
struct SampleScratch {
  T *hidden, *gaps;
  void* product;
  size_t bytes;

  explicit SampleScratch(const KernelArgs& a) {
    const int64_t rows = a.out[0].rows(), D = a.out[0].cols();
    const auto round = [](size_t n) { return (n + 63) / 64 * 64; };
    const size_t mixed = guided(a.in[0], a.out[0]) ? round(static_cast<size_t>(rows * a.in[0].cols()) * sizeof(T)) : 0;
    const size_t made = round(static_cast<size_t>(rows * D) * sizeof(T));
    char* at = static_cast<char*>(a.scratch);
    hidden = reinterpret_cast<T*>(at);
    gaps = reinterpret_cast<T*>(at + mixed);
    product = at + mixed + made;
    bytes = mixed + made + productBytes(a, D);
  }
};

size_t bitHeadSamplePlan(const KernelArgs& a) {
  return a.in[0].dtype == DType::f64 ? SampleScratch<double>(a).bytes : SampleScratch<float>(a).bytes;
}

// guidance · conditional + (1 − guidance) · unconditional, before the product: half of its arithmetic.
template <class T>
void mixHidden(const KernelArgs& a, T guidance, T* to) {
  const int64_t n = a.in[0].size() / 2;
  const T *cond = a.in[0].as<T>(), *uncond = cond + n;
  const Vec<T> own = splat(guidance), other = splat(1 - guidance);
  a.pool->parallelFor(tilesFor(n), [&](int64_t tile) {
    const int64_t end = n < (tile + 1) * kElementsPerTile ? n : (tile + 1) * kElementsPerTile;
    for (int64_t i = tile * kElementsPerTile; i < end; i += lanesOf<T>) {
      const int count = end - i < lanesOf<T> ? static_cast<int>(end - i) : lanesOf<T>;
      storeUpTo(to + i, fma(own, loadUpTo(cond + i, count), other * loadUpTo(uncond + i, count)), count);
    }
  });
}

template <class T>
void bitHeadSampleKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<BitHeadSampleParams>();
  const auto& choice = *a.in[5].as<SampleChoice>();
  const SampleScratch<T> scratch(a);
  const int64_t rows = a.out[0].rows(), D = a.out[0].cols();
  const T* hidden = a.in[0].as<T>();
  if (guided(a.in[0], a.out[0])) {
    mixHidden<T>(a, choice.guidance, scratch.hidden);
    hidden = scratch.hidden;
  }
  gapsOf(a, hidden, rows, D, scratch.gaps, scratch.product);
  const T* gaps = scratch.gaps;
  sampleBits<T>(a, p.sample, choice, a.in[3], a.in[4], [&](int64_t i) { return gaps[i]; });

  const uint8_t* bits = a.out[0].as<uint8_t>();
  if (wanted(a.out[2], a.out[0])) packRows(bits, rows, D, a.out[2].as<uint8_t>());
  if (a.out[3].dtype == DType::u8) return;
  const T magnitude = codeMagnitude<T>(p.codeBits);
  for (int64_t i = 0; i < rows * D; ++i) a.out[3].as<T>()[i] = bits[i] ? magnitude : -magnitude;
}

// ---- loss: the gaps lie where their gradient will be

size_t lossBytes(const KernelArgs& a) { return (bitLossBytes(a.in[3].rows()) + 63) / 64 * 64; }
size_t bitHeadLossPlan(const KernelArgs& a) { return lossBytes(a) + productBytes(a, a.out[1].cols()); }

template <class T>
void bitHeadLossKernel(const KernelArgs& a) {
  const int64_t D = a.out[1].cols();
  T* gaps = a.out[1].as<T>();
  gapsOf(a, a.in[0].as<T>(), a.in[3].rows(), D, gaps, static_cast<char*>(a.scratch) + lossBytes(a));
  bitLoss<T>(a, gaps, D, a.in[3], a.in[4], a.scratch);
}

}  // namespace

INFINITY_KERNEL(bit_head_sample, bitHeadSampleKernel<float>, bitHeadSampleKernel<double>, bitHeadSamplePlan);
INFINITY_KERNEL(bit_head_loss, bitHeadLossKernel<float>, bitHeadLossKernel<double>, bitHeadLossPlan);

}  // namespace infinity::INFINITY_ISA
