#include "ops/resize/resize.h"

#include "cpu/kernel.h"
#include "cpu/simd.h"

namespace infinity::INFINITY_ISA {
namespace {

// A sparse matrix of one axis: row `to` takes weights[to · width + k] of position start[to] + k.
template <class T>
struct Band {
  int64_t width;
  int32_t *start, *count;
  T* weights;

  static size_t bytes(int64_t from, int64_t to) {
    return static_cast<size_t>(to) * (8 + static_cast<size_t>(maxResampleTaps(from, to)) * sizeof(T)) + 16;
  }

  Band(ResampleMode mode, bool transposed, int64_t from, int64_t to, char* memory)
      : width(maxResampleTaps(from, to)),
        start(reinterpret_cast<int32_t*>(memory)),
        count(start + to),
        weights(reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(count + to) + 7) / 8 * 8)) {
    for (int64_t i = 0; i < to; ++i) start[i] = count[i] = 0;
    for (int64_t position = 0; position < (transposed ? from : to); ++position) {
      const AxisTaps taps = resampleTaps(mode, transposed ? to : from, transposed ? from : to, position);
      for (int64_t k = 0; k < taps.count; ++k) add(transposed, position, taps.start + k, taps.weight(k));
    }
  }

 private:
  // The taps of a position are neighbours in both directions, so a row only ever grows at its end.
  void add(bool transposed, int64_t position, int64_t source, double weight) {
    const int64_t row = transposed ? source : position, at = transposed ? position : source;
    if (count[row] == 0) start[row] = static_cast<int32_t>(at);
    weights[row * width + count[row]++] = static_cast<T>(weight);
  }
};

template <class T>
size_t planFor(const TensorView& x, const TensorView& y) {
  return Band<T>::bytes(x.dims[1], y.dims[1]) + Band<T>::bytes(x.dims[2], y.dims[2]) + 64;
}
size_t resamplePlan(const KernelArgs& a) {
  return a.in[0].dtype == DType::f64 ? planFor<double>(a.in[0], a.out[0]) : planFor<float>(a.in[0], a.out[0]);
}

// y[c] = Σ_j wy[j] Σ_k wx[k] x[j, k, c] for `V` vectors of channels, the last of them with n lanes.
template <class T, int V>
INFINITY_INLINE void resamplePixel(const T* x, int64_t rowStride, int64_t channels, const T* wy, int ny, const T* wx,
                                   int nx, T* y, int n) {
  constexpr int lanes = lanesOf<T>;
  Vec<T> sum[V];
  for (int v = 0; v < V; ++v) sum[v] = splatTo<T>(0);
  for (int j = 0; j < ny; ++j) {
    Vec<T> row[V];
    for (int v = 0; v < V; ++v) row[v] = splatTo<T>(0);
    for (int k = 0; k < nx; ++k) {
      const T* p = x + j * rowStride + k * channels;
      const Vec<T> w = splat(wx[k]);
      for (int v = 0; v < V - 1; ++v) row[v] = fma(w, load(p + v * lanes), row[v]);
      row[V - 1] = fma(w, n == lanes ? load(p + (V - 1) * lanes) : loadTail(p + (V - 1) * lanes, n), row[V - 1]);
    }
    for (int v = 0; v < V; ++v) sum[v] = fma(splat(wy[j]), row[v], sum[v]);
  }
  for (int v = 0; v < V - 1; ++v) store(y + v * lanes, sum[v]);
  if (n == lanes)
    store(y + (V - 1) * lanes, sum[V - 1]);
  else
    storeTail(y + (V - 1) * lanes, sum[V - 1], n);
}

template <class T>
void resampleKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<ResampleParams>();
  const TensorView &x = a.in[0], &y = a.out[0];
  const int64_t inH = x.dims[1], inW = x.dims[2], outH = y.dims[1], outW = y.dims[2], channels = x.dims[3];
  const auto mode = static_cast<ResampleMode>(p.mode);
  auto* memory = static_cast<char*>(a.scratch);
  const Band<T> rows(mode, p.transposed, inH, outH, memory);
  const Band<T> columns(mode, p.transposed, inW, outW, memory + (Band<T>::bytes(inH, outH) + 15) / 16 * 16);
  const int64_t ratio = (inH * inW + outH * outW - 1) / (outH * outW);
  const int64_t work = channels * (ratio < 4 ? 4 : ratio);  // about what one output pixel costs
  const int64_t pixels = y.dims[0] * outH * outW, perTile = work >= kElementsPerTile ? 1 : kElementsPerTile / work;
  constexpr int lanes = lanesOf<T>;
  a.pool->parallelFor(tilesFor(pixels, perTile), [&](int64_t tile) {
    const int64_t end = pixels < (tile + 1) * perTile ? pixels : (tile + 1) * perTile;
    for (int64_t pixel = tile * perTile; pixel < end; ++pixel) {
      const int64_t ox = pixel % outW, oy = pixel / outW % outH, b = pixel / outW / outH;
      const T* from = x.as<T>() + ((b * inH + rows.start[oy]) * inW + columns.start[ox]) * channels;
      T* to = y.as<T>() + pixel * channels;
      const T *wy = rows.weights + oy * rows.width, *wx = columns.weights + ox * columns.width;
      const int ny = rows.count[oy], nx = columns.count[ox];
      const int64_t stride = inW * channels;
      int64_t c = 0;
      for (; c + 2 * lanes <= channels; c += 2 * lanes)
        resamplePixel<T, 2>(from + c, stride, channels, wy, ny, wx, nx, to + c, lanes);
      if (c + lanes < channels) {
        resamplePixel<T, 2>(from + c, stride, channels, wy, ny, wx, nx, to + c, static_cast<int>(channels - c - lanes));
      } else if (c < channels) {
        resamplePixel<T, 1>(from + c, stride, channels, wy, ny, wx, nx, to + c, static_cast<int>(channels - c));
      }
    }
  });
}

}  // namespace

INFINITY_KERNEL(resample, resampleKernel<float>, resampleKernel<double>, resamplePlan);

}  // namespace infinity::INFINITY_ISA
