// Weights between the official order [O, C, kh, kw] and the order of a product's sum: a row for each column of the
// product, in it taps, then channels.
#pragma once
#include "cuda/launch.h"
#include "cuda/operands.cuh"
#include "cuda/walk.cuh"
#include "ops/conv/conv.h"

namespace infinity::cuda {
namespace {

constexpr int kWeightThreads = 256;
inline LaunchShape overWeights(int64_t n, int64_t parts = 1) {
  return {dim3(static_cast<unsigned>(ceilDiv(n, kWeightThreads)), static_cast<unsigned>(parts)), dim3(kWeightThreads)};
}

// Where element (column, channel, entry of the kernel) of the official order lies when the sum runs over C (forward) or
// over O (input gradient).
struct WeightStrides {
  int64_t column, channel;
};

struct Phases {
  Phase phase[kUpsamplePhases];
};

// to[phase, column, tap, channel] = the sum of the tap's entries. One thread an element, a row of blocks a phase.
template <class S, class T>
__global__ void orderWeights(const S* __restrict__ w, T* __restrict__ to, const __grid_constant__ Phases phases,
                             int columns, Divisor<uint32_t> channels, Divisor<uint32_t> taps, WeightStrides strides) {
  const Phase& phase = phases.phase[blockIdx.y];
  const uint32_t element = blockIdx.x * kWeightThreads + threadIdx.x;
  const uint32_t row = channels.divide(element), column = taps.divide(row);
  if (column >= static_cast<uint32_t>(columns)) return;
  const uint32_t channel = element - row * channels.value, tap = row - column * taps.value;
  const int i = static_cast<int>(tap) / phase.x.count, j = static_cast<int>(tap) % phase.x.count;
  const S* from = w + column * strides.column + channel * strides.channel;
  float sum = 0;
  phase.forEachWeight(i, j, [&](int entry) { sum += toFloat(from[entry]); });
  to[static_cast<int64_t>(blockIdx.y) * columns * taps.value * channels.value + element] = fromFloat<T>(sum);
}

// The taps that one entry (ky, kx) of a 3 × 3 kernel is part of, one in each phase of an upsampling.
struct EntryToTap {
  bool upsampled;
  __device__ __forceinline__ int operator()(int part, int entry) const {
    if (!upsampled) return entry;
    const int ky = entry / 3, kx = entry % 3;
    return (ky + 1 - part / 2) / 2 * 2 + (kx + 1 - part % 2) / 2;
  }
};

// Adds the pieces of both gradients in their order: dw in the official order from pieces [O, taps, C], db from the sums
// of rows. One thread an element of the pieces' order, so that reads are neighbours.
template <class ToTap>
__global__ void addPieces(const PartialSums from, int parts, int splits, Divisor<uint32_t> channels,
                          Divisor<uint32_t> entries, ToTap tapOf, float* __restrict__ dw, float* __restrict__ db) {
  const uint32_t element = blockIdx.x * kWeightThreads + threadIdx.x;
  const uint32_t row = channels.divide(element), o = entries.divide(row);
  const int64_t piece = static_cast<int64_t>(from.rows) * from.columns;
  if (o < static_cast<uint32_t>(from.rows)) {
    const uint32_t c = element - row * channels.value, entry = row - o * entries.value;
    float sum = 0;
    for (int p = 0; p < parts; ++p) {
      const float* at = from.data + static_cast<int64_t>(p) * splits * piece + static_cast<int64_t>(o) * from.columns +
                        tapOf(p, static_cast<int>(entry)) * static_cast<int>(channels.value) + c;
      for (int s = 0; s < splits; ++s) sum += at[s * piece];
    }
    dw[(static_cast<int64_t>(o) * channels.value + c) * entries.value + entry] = sum;
  }
  if (element < static_cast<uint32_t>(from.rows)) {
    float sum = 0;
    for (int p = 0; p < parts * splits; ++p) sum += from.rowSums[static_cast<int64_t>(p) * from.rows + element];
    db[element] = sum;
  }
}

}  // namespace
}  // namespace infinity::cuda
