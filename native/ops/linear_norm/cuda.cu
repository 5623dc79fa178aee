#include "ops/linear/cuda_products.cuh"
#include "ops/linear_norm/linear_norm.h"

namespace infinity::cuda {
namespace {

static_assert(kNormRun == kMomentRun, "the runs that products leave");

Floats f32Of(const TensorView& t) { return {t.data, false}; }

// ---- linear_measured: the sum of a linear layer and a residual, the same scaled, and the moments of its rows

struct MeasuringEpilogue {
  static constexpr bool kRowSums = false, kMoments = false, kRowMoments = true, kRowFacts = false;
  LinearEpilogue sum;
  Floats scaled, affine;
  float* moments;
  int rowsPerScale;

  __device__ __forceinline__ const MeasuringEpilogue& select(const BlockWork&) const { return *this; }
  template <int W>
  __device__ __forceinline__ void operator()(int row, int column, float (&v)[W]) const {
    sum(row, column, v);
    const int columns = sum.columns, n = columns - column;
    float scale[W], product[W];
    affine.read(static_cast<int64_t>(row / rowsPerScale) * 2 * columns + column, sum.whole, n, scale);
#pragma unroll
    for (int i = 0; i < W; ++i) product[i] = v[i] * scale[i];
    scaled.write(static_cast<int64_t>(row) * columns + column, sum.whole, n, product);
  }
  __device__ __forceinline__ void rowMoments(int row, int run, float mean, float deviation) const {
    const int runs = (sum.columns + kMomentRun - 1) / kMomentRun;
    storePack(moments + (static_cast<int64_t>(row) * runs + run) * 2, Pack<float, 2>{{mean, deviation}});
  }
};

bool acceptMeasured(const TensorView* in, const TensorView* out) {
  return areOperands(in[0], in[1]) && isF32OrBf16(in[2]) && isF32OrBf16(in[3]) && isF32OrBf16(in[4]) && isF32(in[5]) &&
         isF32OrBf16(out[0]) && out[1].dtype == in[0].dtype && isF32(out[2]);
}
void launchMeasured(const KernelArgs& a) {
  const TensorView &bias = a.in[2], &residual = a.in[3], &gate = a.in[4], &affine = a.in[5], &y = a.out[0];
  const int64_t rows = y.rows(), N = y.cols(), K = a.in[0].cols();
  ProductCase c = productCase("linear_measured", rows, N, K, a.in[0], a.in[1], y);
  c.bias = partOf(bias);
  c.residual = partOf(residual);
  c.gate = partOf(gate);
  c.norm = true;
  bool whole = true;
  for (const TensorView& t : {bias, residual, gate, affine, y, a.out[1]}) {
    c.aligned = c.aligned && rowsAligned(t, N);
    whole = whole && (!t || inQuads(t, N));
  }
  const auto perGroup = [&](const TensorView& t, int64_t width) {
    return static_cast<int>(rowsPerGroup(rows, t, width));
  };
  const LinearEpilogue sum = {
      floatsOf(y), floatsOf(bias), floatsOf(residual), floatsOf(gate), static_cast<int>(N), perGroup(gate, N),
      false,       whole};
  const MeasuringEpilogue epilogue = {sum, floatsOf(a.out[1]), f32Of(affine), a.out[2].as<float>(),
                                      perGroup(affine, 2 * N)};
  ProductShape shape = {rows, N, K};
  shape.columnsTogether = kMomentRun;
  a.routes->launch(a, c, [&](const KernelArgs& args, ProductRoute route) {
    withOperands(a.in[0], a.in[1], [&](auto x, auto w) {
      using X = decltype(x);
      using W = decltype(w);
      launchProductBy(route, args, "linear_measured", shape, 1, matrixRows<X>(a.in[0].as<X>(), rows, K),
                      matrixRows<X>(a.in[1].as<W>(), N, K), epilogue);
    });
  });
}

// ---- linear_normed: a linear layer of rows that linear_measured left, normalised

struct NormedEpilogue {
  static constexpr bool kRowSums = false, kMoments = false, kRowMoments = false, kRowFacts = true;
  MeasuredRows rows;
  Floats y, bias, projected;
  int columns, rowsPerGroup;
  bool gelu, whole;

  // Neighbouring rows of a thread have the same columns of the same sample: what was read for one is kept.
  struct Finish {
    static constexpr int W = kEpilogueWidth;
    const NormedEpilogue& of;
    const RowFacts facts;
    mutable int readColumn = -1, readRow = 0;  // readRow: the first of its group
    mutable float scale[W], shift[W];

    __device__ __forceinline__ Finish(const NormedEpilogue& of, const RowFacts& facts) : of(of), facts(facts) {}
    template <int Width>
    __device__ __forceinline__ void read(int row, int column) const {
      if (column == readColumn && static_cast<unsigned>(row - readRow) < static_cast<unsigned>(of.rowsPerGroup)) return;
      const int group = row / of.rowsPerGroup, n = of.columns - column;
      readColumn = column;
      readRow = group * of.rowsPerGroup;
      const int64_t at = static_cast<int64_t>(group) * 2 * of.columns + column;
      float by[3][Width] = {};  // scale, shift, bias
      of.projected.read(at, of.whole, n, by[0]);
      of.projected.read(at + of.columns, of.whole, n, by[1]);
      if (of.bias) of.bias.read(column, of.whole, n, by[2]);
#pragma unroll
      for (int i = 0; i < Width; ++i) scale[i] = by[0][i], shift[i] = by[1][i] + by[2][i];
    }
    template <int Width>
    __device__ __forceinline__ void operator()(int row, int column, float (&v)[Width]) const {
      static_assert(Width <= W, "fits");
      read<Width>(row, column);
      const RowFact fact = facts[row];
#pragma unroll
      for (int i = 0; i < Width; ++i) {
        v[i] = fmaf(fact.rstd, v[i], fmaf(fact.shift, scale[i], shift[i]));
        if (of.gelu) v[i] = cuda::gelu(v[i]);
      }
      of.y.write(static_cast<int64_t>(row) * of.columns + column, of.whole, of.columns - column, v);
    }
  };
  __device__ __forceinline__ Finish select(const BlockWork&, const RowFacts& facts) const {
    return Finish(*this, facts);
  }
};

bool acceptNormed(const TensorView* in, const TensorView* out) {
  return areOperands(in[0], in[1]) && isF32OrBf16(in[2]) && isF32(in[3]) && isF32(in[4]) && isF32OrBf16(out[0]);
}
void launchNormed(const KernelArgs& a) {
  const auto& params = a.paramsAs<LinearNormedParams>();
  const TensorView &bias = a.in[2], &projected = a.in[4], &y = a.out[0];
  const int64_t rows = y.rows(), N = y.cols(), K = a.in[0].cols();
  ProductCase c = productCase("linear_normed", rows, N, K, a.in[0], a.in[1], y);
  c.bias = partOf(bias);
  c.gelu = params.gelu != 0;
  c.norm = true;
  c.aligned = c.aligned && rowsAligned(bias, N) && rowsAligned(projected, N);
  const MeasuredRows measured = {a.in[3].as<float>(), static_cast<int>(rows), static_cast<int>(K), params.eps,
                                 params.centred != 0};
  const NormedEpilogue epilogue = {measured,
                                   floatsOf(y),
                                   floatsOf(bias),
                                   f32Of(projected),
                                   static_cast<int>(N),
                                   static_cast<int>(rowsPerGroup(rows, projected, 2 * N)),
                                   c.gelu,
                                   inQuads(y, N) && inQuads(projected, N) && (!bias || inQuads(bias, N))};
  const ProductShape shape = {rows, N, K};
  a.routes->launch(a, c, [&](const KernelArgs& args, ProductRoute route) {
    withOperands(a.in[0], a.in[1], [&](auto x, auto w) {
      using X = decltype(x);
      using W = decltype(w);
      launchProductBy(route, args, "linear_normed", shape, 1, matrixRows<X>(a.in[0].as<X>(), rows, K),
                      matrixRows<X>(a.in[1].as<W>(), N, K), epilogue);
    });
  });
}

}  // namespace

INFINITY_CUDA_KERNEL(linear_measured, launchMeasured, nullptr, acceptMeasured);
INFINITY_CUDA_KERNEL(linear_normed, launchNormed, nullptr, acceptNormed);

}  // namespace infinity::cuda
