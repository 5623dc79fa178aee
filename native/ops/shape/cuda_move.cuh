// Elements moved between two arrangements: runs copied in the widest words that their places allow, and a tiled
// transposition where the contiguous axes of the two sides differ.
#pragma once
#include "cuda/map.cuh"
#include "cuda/walk.cuh"
#include "ops/shape/shape.h"

namespace infinity::cuda {
namespace {

// Words of 1, 2, 4, 8 or 16 bytes.
template <class F>
void withWord(int64_t bytes, const F& f) {
  switch (bytes) {
    case 1:
      return f(uint8_t{});
    case 2:
      return f(uint16_t{});
    case 4:
      return f(uint32_t{});
    case 8:
      return f(uint2{});
    default:
      return f(uint4{});
  }
}

// ---- strided copies

// A row-major index space, and how far a step along each axis goes on both sides, in bytes.
struct Moves {
  char* to;
  const char* from;
  int rank = 0;
  int64_t extent[kMaxRank], toStride[kMaxRank], fromStride[kMaxRank];

  Moves(char* to, const char* from) : to(to), from(from) {}
  void add(int64_t n, int64_t toBy, int64_t fromBy) {
    if (n == 1) return;
    if (rank && toStride[rank - 1] == n * toBy && fromStride[rank - 1] == n * fromBy) {
      extent[rank - 1] *= n;
    } else {
      extent[rank++] = n;
    }
    toStride[rank - 1] = toBy;
    fromStride[rank - 1] = fromBy;
  }
};

constexpr int kCopyBatch = 2;

template <class Word, class I>
__global__ void __launch_bounds__(kMapThreads)
    copyKernel(Word* __restrict__ to, const Word* __restrict__ from, const __grid_constant__ Walk<I, 2> walk, I words) {
  const I step = gridDim.x * kMapThreads * kCopyBatch;
  for (I first = static_cast<I>(blockIdx.x) * kMapThreads * kCopyBatch + threadIdx.x; first < words; first += step) {
    Word x[kCopyBatch];
    I at[kCopyBatch][2];
#pragma unroll
    for (int b = 0; b < kCopyBatch; ++b) {
      if (first + b * kMapThreads >= words) continue;
      walk.seek(first + b * kMapThreads, at[b]);
      x[b] = from[at[b][1]];
    }
#pragma unroll
    for (int b = 0; b < kCopyBatch; ++b)
      if (first + b * kMapThreads < words) to[at[b][0]] = x[b];
  }
}

// `unit` bytes are contiguous on both sides wherever a step of the walk leads.
void copy(const KernelArgs& a, const char* name, Moves m, int64_t unit) {
  // A last axis that is contiguous on both sides becomes part of the unit.
  if (m.rank && m.toStride[m.rank - 1] == unit && m.fromStride[m.rank - 1] == unit) unit *= m.extent[--m.rank];
  int64_t word = 16;
  const auto fits = [&] {
    bool ok =
        unit % word == 0 && aligned(m.to, static_cast<size_t>(word)) && aligned(m.from, static_cast<size_t>(word));
    for (int i = 0; i < m.rank; ++i) ok = ok && m.toStride[i] % word == 0 && m.fromStride[i] % word == 0;
    return ok;
  };
  while (!fits()) word /= 2;
  int64_t words = unit / word, reach = words;
  for (int i = 0; i < m.rank; ++i) {
    words *= m.extent[i];
    const int64_t farther = m.toStride[i] > m.fromStride[i] ? m.toStride[i] : m.fromStride[i];
    reach += farther / word * (m.extent[i] - 1);
  }
  withWord(word, [&](auto w) {
    using Word = decltype(w);
    withIndex(reach, [&](auto index) {
      using I = decltype(index);
      Walk<I, 2> walk;
      for (int i = 0; i < m.rank; ++i) walk.add(m.extent[i], m.toStride[i] / word, m.fromStride[i] / word);
      if (unit > word || m.rank == 0) walk.add(unit / word, int64_t{1}, int64_t{1});
      launch(a, name, copyKernel<Word, I>, overElements(a, words, kCopyBatch, kMapThreads),
             reinterpret_cast<Word*>(m.to), reinterpret_cast<const Word*>(m.from), walk, static_cast<I>(words));
    });
  });
}

// ---- transposition

constexpr int kTileRows = 8;  // warps of a block

template <class E>
constexpr int kTile = sizeof(E) >= 4 ? 32 : 64;

// out[.., q, .., p] = in[.., p, .., q] for tiles of P × Q, one a block; q is contiguous in the input, p in the output.
struct TransposeShape {
  int64_t P, Q;
  int64_t fromP, toQ;  // strides
};

// The axes other than those two: blocks are counted in 32 bits, elements in 64.
using OtherAxes = Walk<uint32_t, 2, int64_t>;

template <class E>
__global__ void __launch_bounds__(kTileRows * 32)
    transposeKernel(E* __restrict__ to, const E* __restrict__ from, TransposeShape s, Divisor<uint32_t> tilesP,
                    Divisor<uint32_t> tilesQ, const __grid_constant__ OtherAxes others) {
  constexpr int tile = kTile<E>, pad = sizeof(E) >= 4 ? 1 : 4 / sizeof(E);  // rows in different banks
  __shared__ E block[tile][tile + pad];
  const uint32_t piece = blockIdx.x, byP = tilesP.divide(piece), byQ = tilesQ.divide(byP);
  const int64_t p0 = static_cast<int64_t>(piece - byP * tilesP.value) * tile;
  const int64_t q0 = static_cast<int64_t>(byP - byQ * tilesQ.value) * tile;
  int64_t base[2];
  others.seek(byQ, base);
  const int lane = static_cast<int>(threadIdx.x), row = static_cast<int>(threadIdx.y);
#pragma unroll
  for (int p = row; p < tile; p += kTileRows)
#pragma unroll
    for (int q = lane; q < tile; q += 32)
      if (p0 + p < s.P && q0 + q < s.Q) block[p][q] = from[base[1] + (p0 + p) * s.fromP + q0 + q];
  __syncthreads();
#pragma unroll
  for (int q = row; q < tile; q += kTileRows)
#pragma unroll
    for (int p = lane; p < tile; p += 32)
      if (p0 + p < s.P && q0 + q < s.Q) to[base[0] + (q0 + q) * s.toQ + p0 + p] = block[p][q];
}

// ---- permute

template <class E>
void permuteAs(const KernelArgs& a) {
  constexpr int64_t size = sizeof(E), shortest = 8;  // below it a tile would be mostly empty
  const PermuteWalk w(a.in[0], a.paramsAs<PermuteParams>().axes);
  const int last = w.rank - 1;
  int64_t outStride[kMaxRank];
  outStride[last] = 1;
  for (int axis = last; axis > 0; --axis) outStride[axis - 1] = outStride[axis] * w.extent[axis];
  int fast = 0;  // the output axis along which the input is contiguous
  while (w.stride[fast] != 1) ++fast;
  const int64_t P = w.extent[last], Q = w.extent[fast], n = a.out[0].size();
  if (fast == last || P < shortest || Q < shortest) {
    Moves m(a.out[0].as<char>(), a.in[0].as<char>());
    for (int axis = 0; axis <= last; ++axis) m.add(w.extent[axis], outStride[axis] * size, w.stride[axis] * size);
    return copy(a, "permute", m, size);
  }
  const int64_t tilesP = ceilDiv(P, kTile<E>), tilesQ = ceilDiv(Q, kTile<E>);
  const LaunchShape shape = {dim3(static_cast<unsigned>(n / (P * Q) * tilesP * tilesQ)), dim3(32, kTileRows)};
  OtherAxes others;
  for (int axis = 0; axis < last; ++axis)
    if (axis != fast) others.add(w.extent[axis], outStride[axis], w.stride[axis]);
  launch(a, "permute", transposeKernel<E>, shape, a.out[0].as<E>(), a.in[0].as<const E>(),
         TransposeShape{P, Q, w.stride[last], outStride[fast]}, Divisor<uint32_t>(tilesP), Divisor<uint32_t>(tilesQ),
         others);
}

}  // namespace
}  // namespace infinity::cuda
