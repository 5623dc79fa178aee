#include "ops/linear/cuda_cublaslt.cuh"
#include "ops/linear/cuda_products.cuh"
#include "ops/linear/linear.h"

namespace infinity::cuda {
namespace {

// ---- linear; in: x [.., K], W [N, K], bias, residual, gate. The epilogue's operands are each f32 or bf16.

bool acceptLinear(const TensorView* in, const TensorView* out) {
  return areOperands(in[0], in[1]) && isF32OrBf16(in[2]) && isF32OrBf16(in[3]) && isF32OrBf16(in[4]) &&
         isF32OrBf16(out[0]);
}
ProductCase linearCase(const KernelArgs& a) {
  const LinearShape s(a.in, a.out[0]);
  ProductCase c = productCase("linear", s.rows, s.N, s.K, a.in[0], a.in[1], a.out[0]);
  c.bias = partOf(a.in[2]);
  c.residual = partOf(a.in[3]);
  c.gate = partOf(a.in[4]);
  c.gelu = a.paramsAs<LinearParams>().gelu != 0;
  for (int i = 2; i <= 4; ++i) c.aligned = c.aligned && rowsAligned(a.in[i], s.N);
  return c;
}
size_t linearScratch(const KernelArgs& a) { return a.routes->scratch(linearCase(a)); }
void launchLinear(const KernelArgs& a) {
  const LinearShape s(a.in, a.out[0]);
  bool whole = inQuads(a.out[0], s.N);
  for (int i = 2; i <= 4; ++i) whole = whole && (!a.in[i] || inQuads(a.in[i], s.N));
  const LinearEpilogue epilogue = {floatsOf(a.out[0]),
                                   floatsOf(a.in[2]),
                                   floatsOf(a.in[3]),
                                   floatsOf(a.in[4]),
                                   static_cast<int>(s.N),
                                   static_cast<int>(s.rowsPerGate),
                                   a.paramsAs<LinearParams>().gelu != 0,
                                   whole};
  const ProductShape shape = {s.rows, s.N, s.K};
  const ProductCase c = linearCase(a);
  a.routes->launch(a, c, [&](const KernelArgs& args, ProductRoute route) {
    if (route == ProductRoute::cublaslt) return launchCublasLt(args, c, a.in[2], a.in[3], epilogue);
    withOperands(a.in[0], a.in[1], [&](auto x, auto w) {
      using X = decltype(x);
      using W = decltype(w);
      launchProductBy(route, args, "linear", shape, 1, matrixRows<X>(a.in[0].as<X>(), s.rows, s.K),
                      matrixRows<X>(a.in[1].as<W>(), s.N, s.K), epilogue);
    });
  });
}

// ---- linear_backward_input: dx = dy·W; in: dy [.., N], W [N, K]

bool acceptBackwardInput(const TensorView* in, const TensorView* out) {
  return areOperands(in[0], in[1]) && isF32OrBf16(out[0]);
}
void launchBackwardInput(const KernelArgs& a) {
  const int64_t rows = a.in[0].rows(), N = a.in[0].cols(), K = a.out[0].cols();
  const LinearEpilogue epilogue = {floatsOf(a.out[0]), {}, {}, {}, static_cast<int>(K), 1, false, inQuads(a.out[0], K)};
  const ProductShape shape = {rows, K, N};
  ProductCase c = productCase("linear_backward_input", rows, K, N, a.in[0], a.in[1], a.out[0]);
  c.lieB = Lie::acrossSum;
  a.routes->launch(a, c, [&](const KernelArgs& args, ProductRoute route) {
    if (route == ProductRoute::cublaslt) return launchCublasLt(args, c, {}, {}, epilogue);
    withOperands(a.in[0], a.in[1], [&](auto dy, auto w) {
      using Y = decltype(dy);
      using W = decltype(w);
      launchProductBy(route, args, "linear_backward_input", shape, 1, matrixRows<Y>(a.in[0].as<Y>(), rows, N),
                      matrixColumns<Y>(a.in[1].as<W>(), K, N), epilogue);
    });
  });
}

// ---- linear_backward_weight: dW = dyᵀ·x, db = Σ dy; in: dy [.., N], x [.., K]; gradients of parameters are f32

bool acceptBackwardWeight(const TensorView* in, const TensorView* out) {
  return (storedAs<float, float>(in[0], in[1]) || storedAs<bf16, bf16>(in[0], in[1])) &&
         storedAs<float, float>(out[0], out[1]);
}
// Adds the pieces of both gradients in their order.
__global__ void addSplits(const PartialSums from, int splits, float* dw, float* db) {
  const int64_t outputs = static_cast<int64_t>(from.rows) * from.columns;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < outputs + from.rows; i += stride) {
    const bool ofWeight = i < outputs;
    const float* p = ofWeight ? from.data + i : from.rowSums + (i - outputs);
    const int64_t piece = ofWeight ? outputs : from.rows;
    float sum = p[0];
    for (int s = 1; s < splits; ++s) sum += p[s * piece];
    (ofWeight ? dw[i] : db[i - outputs]) = sum;
  }
}
ProductShape backwardWeightShape(const KernelArgs& a) { return {a.in[0].cols(), a.in[1].cols(), a.in[0].rows()}; }
size_t backwardWeightScratch(const KernelArgs& a) {
  const ProductShape shape = backwardWeightShape(a);
  const int64_t pieces = piecesOf(shape, splitsOf(shape)).count;
  return pieces == 1 ? 0 : pieces * shape.rows * (shape.columns + 1) * sizeof(float);
}
void launchBackwardWeight(const KernelArgs& a) {
  const ProductShape shape = backwardWeightShape(a);
  const int splits = splitsOf(shape), pieces = piecesOf(shape, splits).count;
  const bool split = pieces > 1;
  const int64_t outputs = shape.rows * shape.columns;
  float* const dw = split ? a.scratchAs<float>() : a.out[0].as<float>();
  float* const db = split ? dw + pieces * outputs : a.out[1].as<float>();
  const PartialSums partial = {dw, db, static_cast<int>(shape.rows), static_cast<int>(shape.columns),
                               inQuads(a.out[0], shape.columns)};
  ProductCase c =
      productCase("linear_backward_weight", shape.rows, shape.columns, shape.sums, a.in[0], a.in[1], a.out[0]);
  c.lieA = c.lieB = Lie::acrossSum;
  c.rowSums = true;
  c.aligned = c.aligned && rowsAligned(a.out[1], shape.rows);
  a.routes->launch(a, c, [&](const KernelArgs& args, ProductRoute route) {
    if (route == ProductRoute::cublaslt) {
      const CublasLtOperands operands = {a.in[0].data, a.in[1].data, nullptr, nullptr, a.out[0].data, a.out[1].data};
      return launchByCublasLt(args, c, operands);
    }
    withElement(a.in[0].dtype, [&](auto element) {
      using T = decltype(element);
      launchProductBy(route, args, "linear_backward_weight", shape, splits,
                      matrixColumns<T>(a.in[0].as<T>(), shape.rows, shape.sums),
                      matrixColumns<T>(a.in[1].as<T>(), shape.columns, shape.sums), partial);
    });
    if (split) {
      launch(args, "linear_backward_weight: splits", addSplits, overElements(a, outputs + shape.rows), partial, pieces,
             a.out[0].as<float>(), a.out[1].as<float>());
    }
  });
}

}  // namespace

INFINITY_CUDA_KERNEL(linear, launchLinear, linearScratch, acceptLinear);
INFINITY_CUDA_KERNEL(linear_backward_input, launchBackwardInput, nullptr, acceptBackwardInput);
INFINITY_CUDA_KERNEL(linear_backward_weight, launchBackwardWeight, backwardWeightScratch, acceptBackwardWeight);

}  // namespace infinity::cuda
