// Resampling of pictures [B, H, W, C]: the taps of each axis are put into a table, and then every output pixel sums its
// window. A thread has a pack of channels; the rows of a big window are shared out among lanes.
#include "ops/resize/resize.h"

#include "cuda/chunk.cuh"
#include "cuda/launch.h"
#include "cuda/reduce.cuh"

namespace infinity::cuda {
namespace {

constexpr int kResampleThreads = 256;

// A sparse matrix of one axis, from extent `from` to extent `to`: row i takes weights[i · width + k] of position
// start[i] + k.
struct Band {
  int from, to, width;
  int *start, *count;
  float* weights;

  Band(uint32_t from, uint32_t to, char* memory)
      : from(static_cast<int>(from)),
        to(static_cast<int>(to)),
        width(static_cast<int>(maxResampleTaps(from, to))),
        start(reinterpret_cast<int*>(memory)),
        count(start + to),
        weights(reinterpret_cast<float*>(count + to)) {}
  static size_t bytes(uint32_t from, uint32_t to) {
    return to * (2 + static_cast<size_t>(maxResampleTaps(from, to))) * sizeof(float);
  }
  // Positions that a row takes, about.
  int window() const { return (from + to - 1) / to; }
};

__device__ void fillBandRow(const Band& band, ResampleMode mode, bool transposed, int row) {
  float* weights = band.weights + static_cast<int64_t>(row) * band.width;
  int first = row, count = 0;
  if (band.from == band.to) {
    weights[count++] = 1;
  } else if (!transposed) {
    const AxisTaps taps = resampleTaps(mode, band.from, band.to, row);
    first = static_cast<int>(taps.start);
    for (; count < taps.count; ++count) weights[count] = static_cast<float>(taps.weight(count));
  } else {
    // The windows of the positions only ever move forwards: those that hold `row` are neighbours. Find the first.
    int end = band.from;
    first = 0;
    while (first < end) {
      const int middle = (first + end) / 2;
      const AxisTaps taps = resampleTaps(mode, band.to, band.from, middle);
      if (taps.start + taps.count > row)
        end = middle;
      else
        first = middle + 1;
    }
    for (; first + count < band.from; ++count) {
      const AxisTaps taps = resampleTaps(mode, band.to, band.from, first + count);
      if (taps.start > row) break;
      weights[count] = static_cast<float>(taps.weight(row - taps.start));
    }
  }
  band.start[row] = first;
  band.count[row] = count;
}

__global__ void __launch_bounds__(kResampleThreads)
    fillBands(Band rows, Band columns, ResampleMode mode, bool transposed) {
  const int i = static_cast<int>(blockIdx.x) * kResampleThreads + static_cast<int>(threadIdx.x);
  if (i < rows.to)
    fillBandRow(rows, mode, transposed, i);
  else if (i - rows.to < columns.to)
    fillBandRow(columns, mode, transposed, i - rows.to);
}

// A block has some pixels of one output row, `segments` blocks the row. `sharers` lanes of a warp have the same pack
// and take the rows of its window in turn.
struct ResampleFacts {
  int channels, segments, sharers;
};

template <class T, int V>
__global__ void __launch_bounds__(kResampleThreads)
    resampleRows(ResampleFacts f, Band rows, Band columns, const T* __restrict__ x, T* __restrict__ y) {
  const int segments = f.segments, packs = f.channels / V, apart = kWarp / f.sharers;
  const unsigned outRow = blockIdx.x / static_cast<unsigned>(segments), outH = static_cast<unsigned>(rows.to);
  const int segment = static_cast<int>(blockIdx.x % static_cast<unsigned>(segments));
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int unit = (segment * (kResampleThreads / kWarp) + warp) * apart + lane % apart, share = lane / apart;
  const bool mine = unit < columns.to * packs;
  const int ox = mine ? unit / packs : 0, channel = (unit - ox * packs) * V;
  const int64_t sample = outRow / outH;
  const int oy = static_cast<int>(outRow % outH);

  const int tapRows = mine ? rows.count[oy] : 0, taps = columns.count[ox];
  const float* weights = columns.weights + static_cast<int64_t>(ox) * columns.width;
  const T* from = x + ((sample * rows.from + rows.start[oy]) * columns.from + columns.start[ox]) * f.channels + channel;
  float sum[V] = {};
  for (int ky = share; ky < tapRows; ky += f.sharers) {
    const float outer = rows.weights[static_cast<int64_t>(oy) * rows.width + ky];
    const T* row = from + static_cast<int64_t>(ky) * columns.from * f.channels;
#pragma unroll 4
    for (int kx = 0; kx < taps; ++kx) {
      const float weight = outer * weights[kx];
      float value[V];
      loadFloats<V != 1>(row + static_cast<int64_t>(kx) * f.channels, V, value);
#pragma unroll
      for (int j = 0; j < V; ++j) sum[j] = fmaf(weight, value[j], sum[j]);
    }
  }
  for (int offset = kWarp / 2; offset >= apart; offset /= 2)
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] += __shfl_xor_sync(kAllLanes, sum[j], offset);
  if (mine && share == 0) storeFloats<V != 1>(y + (int64_t{outRow} * columns.to + ox) * f.channels + channel, V, sum);
}

// Lanes that share a window: enough that none has more than about sixteen pixels of it.
int sharersOf(const Band& rows, const Band& columns) {
  int sharers = 1;
  while (sharers < kWarp && sharers < rows.window() &&
         static_cast<int64_t>(rows.window()) * columns.window() > 16 * sharers)
    sharers *= 2;
  return sharers;
}

void launchResample(const KernelArgs& a) {
  const auto& params = a.paramsAs<ResampleParams>();
  const TensorView &x = a.in[0], &y = a.out[0];
  auto* memory = a.scratchAs<char>();
  const Band rows(x.dims[1], y.dims[1], memory);
  const Band columns(x.dims[2], y.dims[2], memory + Band::bytes(x.dims[1], y.dims[1]));
  launch(a, "resample: taps", fillBands,
         {dim3(static_cast<unsigned>(ceilDiv(rows.to + columns.to, kResampleThreads))), dim3(kResampleThreads), 0},
         rows, columns, static_cast<ResampleMode>(params.mode), params.transposed != 0);
  withElement(x.dtype, [&](auto element) {
    using T = decltype(element);
    const auto run = [&](auto* kernel, int perPack) {
      ResampleFacts f = {static_cast<int>(x.cols()), 0, sharersOf(rows, columns)};
      const int64_t units = columns.to * static_cast<int64_t>(f.channels / perPack);
      f.segments = static_cast<int>(ceilDiv(units * f.sharers, kResampleThreads));
      const int64_t blocks = static_cast<int64_t>(y.dims[0]) * rows.to * f.segments;
      launch(a, "resample", kernel, {dim3(static_cast<unsigned>(blocks)), dim3(kResampleThreads), 0}, f, rows, columns,
             x.as<T>(), y.as<T>());
    };
    if (rowsOnPacks(x, x.cols()) && rowsOnPacks(y, x.cols()))
      run(resampleRows<T, kPerPack<T>>, kPerPack<T>);
    else
      run(resampleRows<T, 1>, 1);
  });
}

size_t planResample(const KernelArgs& a) {
  const TensorView &x = a.in[0], &y = a.out[0];
  return Band::bytes(x.dims[1], y.dims[1]) + Band::bytes(x.dims[2], y.dims[2]);
}

}  // namespace

INFINITY_CUDA_KERNEL(resample, launchResample, planResample, (acceptOneFloat<1, 1>));

}  // namespace infinity::cuda
