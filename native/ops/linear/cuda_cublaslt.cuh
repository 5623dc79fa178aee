// Products of linear layers by cuBLASLt: what it has no epilogue for is finished here.
#pragma once
#include "cuda/cublaslt.h"
#include "cuda/operands.cuh"
#include "cuda/route.h"

namespace infinity::cuda {

// Finishes sums [rows, columns] in f32. Columns are a multiple of four.
template <class Epilogue>
__global__ void finishSums(const float* sums, const Epilogue epilogue, int64_t rows, int columns) {
  constexpr int W = kEpilogueWidth;
  const int column = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * W;
  const auto finish = epilogue.select(BlockWork{});
  for (int64_t row = blockIdx.y; row < rows && column < columns; row += gridDim.y) {
    Pack<float, W> sum = loadPack<W>(sums + row * columns + column);
    finish(static_cast<int>(row), column, sum.v);
  }
}

__global__ void roundToHalf(const float* from, bf16* to, int64_t n) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride)
    to[i] = fromFloat<bf16>(from[i]);
}

inline void launchByCublasLt(const KernelArgs& a, const ProductCase& c, const CublasLtOperands& operands) {
  launchByLibrary(a, c.op, [=](const KernelArgs& args) { args.routes->cublasLt()->launch(args, c, operands); });
}

// The product of a.in[0] and a.in[1]; `bias` and `residual` are those of the epilogue, which finishes what cuBLASLt
// cannot.
template <class Epilogue>
void launchCublasLt(const KernelArgs& a, const ProductCase& c, const TensorView& bias, const TensorView& residual,
                    const Epilogue& epilogue) {
  CublasLtOperands operands;
  operands.a = a.in[0].data;
  operands.b = a.in[1].data;
  if (!takesWhole(c)) {
    float* const sums = a.scratchAs<float>();
    operands.out = sums;
    launchByCublasLt(a, c, operands);
    constexpr int kThreads = 128, kMostRows = 65535;
    const dim3 grid(static_cast<unsigned>(ceilDiv(c.columns, kThreads * kEpilogueWidth)),
                    static_cast<unsigned>(c.rows < kMostRows ? c.rows : kMostRows));
    return launch(a, "linear: epilogue", finishSums<Epilogue>, {grid, dim3(kThreads)}, sums, epilogue, c.rows,
                  static_cast<int>(c.columns));
  }
  operands.out = a.out[0].data;
  operands.bias = bias.data;
  operands.residual = residual.data;
  if (roundsBias(c)) {
    bf16* const rounded = a.scratchAs<bf16>();
    launch(a, "linear: bias", roundToHalf, overElements(a, c.columns), bias.as<float>(), rounded, c.columns);
    operands.bias = rounded;
  }
  launchByCublasLt(a, c, operands);
}

}  // namespace infinity::cuda
