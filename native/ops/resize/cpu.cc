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

constexpr size_t kLine = 64;
constexpr size_t roundToLine(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

// One blended row of the input for each thread.
template <class T>
size_t rowBytes(const TensorView& x) {
  return roundToLine(static_cast<size_t>(x.dims[2]) * x.dims[3] * sizeof(T));
}

template <class T>
size_t planFor(const KernelArgs& a) {
  const TensorView &x = a.in[0], &y = a.out[0];
  return roundToLine(Band<T>::bytes(x.dims[1], y.dims[1])) + roundToLine(Band<T>::bytes(x.dims[2], y.dims[2])) +
         static_cast<size_t>(a.pool->threads()) * rowBytes<T>(x);
}
size_t resamplePlan(const KernelArgs& a) {
  return a.in[0].dtype == DType::f64 ? planFor<double>(a) : planFor<float>(a);
}

// y[i] = Σ_k w[k] x[k · stride + i] for i < n
template <class T>
INFINITY_INLINE void blend(const T* x, int64_t stride, const T* w, int taps, T* y, int64_t n) {
  constexpr int lanes = lanesOf<T>;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    Vec<T> s0 = splatTo<T>(0), s1 = s0, s2 = s0, s3 = s0;
    for (int k = 0; k < taps; ++k) {
      const T* p = x + k * stride + i;
      const Vec<T> weight = splat(w[k]);
      s0 = fma(weight, load(p), s0);
      s1 = fma(weight, load(p + lanes), s1);
      s2 = fma(weight, load(p + 2 * lanes), s2);
      s3 = fma(weight, load(p + 3 * lanes), s3);
    }
    store(y + i, s0);
    store(y + i + lanes, s1);
    store(y + i + 2 * lanes, s2);
    store(y + i + 3 * lanes, s3);
  }
  for (; i < n; i += lanes) {
    const int rest = n - i < lanes ? static_cast<int>(n - i) : lanes;
    Vec<T> s = splatTo<T>(0);
    for (int k = 0; k < taps; ++k) s = fma(splat(w[k]), loadUpTo(x + k * stride + i, rest), s);
    storeUpTo(y + i, s, rest);
  }
}

// Rows of the input are blended first, which runs along memory whatever the channels, then the pixels of that row.
template <class T>
void resampleKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<ResampleParams>();
  const TensorView &x = a.in[0], &y = a.out[0];
  const int64_t inH = x.dims[1], inW = x.dims[2], outH = y.dims[1], outW = y.dims[2], channels = x.dims[3];
  const auto mode = static_cast<ResampleMode>(p.mode);
  auto* memory = static_cast<char*>(a.scratch);
  const Band<T> rows(mode, p.transposed, inH, outH, memory);
  memory += roundToLine(Band<T>::bytes(inH, outH));
  const Band<T> columns(mode, p.transposed, inW, outW, memory);
  memory += roundToLine(Band<T>::bytes(inW, outW));
  const int64_t count = y.dims[0] * outH, stride = inW * channels;
  const int64_t work = (stride * (inH > outH ? inH / outH + 1 : 2) + 2 * outW * channels) / 2;  // of a row, about
  const int64_t perTile = work >= kElementsPerTile ? 1 : kElementsPerTile / work;
  parallelForWithMemory(*a.pool, tilesFor(count, perTile), memory, rowBytes<T>(x), [&](int64_t tile, char* mine) {
    const int64_t end = count < (tile + 1) * perTile ? count : (tile + 1) * perTile;
    for (int64_t row = tile * perTile; row < end; ++row) {
      const int64_t oy = row % outH, b = row / outH;
      const T* from = x.as<T>() + (b * inH + rows.start[oy]) * stride;
      T* to = y.as<T>() + row * outW * channels;
      auto* blended = inW == outW ? to : reinterpret_cast<T*>(mine);
      if (inH == outH && inW != outW)
        blended = const_cast<T*>(from);
      else
        blend(from, stride, rows.weights + oy * rows.width, rows.count[oy], blended, stride);
      if (inW == outW) continue;
      for (int64_t ox = 0; ox < outW; ++ox)
        blend(blended + columns.start[ox] * channels, channels, columns.weights + ox * columns.width, columns.count[ox],
              to + ox * channels, channels);
    }
  });
}

}  // namespace

INFINITY_KERNEL(resample, resampleKernel<float>, resampleKernel<double>, resamplePlan);

}  // namespace infinity::INFINITY_ISA
