// Sums over the middle axis of [outer, n, inner]. A run of n terms is cut into chunks; in a chunk the terms are dealt
// out to up to eight threads, whose sums are added up in order. All of that depends on n alone.
#pragma once
#include "cuda/launch.h"
#include "cuda/map.cuh"
#include "cuda/sum.cuh"

namespace infinity::cuda {
namespace {

constexpr int kColumnThreads = 256;

// How many terms a chunk has: about √n, so that neither the sums of chunks nor the sum of those are long.
inline int64_t columnChunk(int64_t n) {
  int64_t chunk = 64;
  while (chunk * chunk < n) chunk += 8;
  return chunk;
}

// The way a block's threads are dealt out: `lanes` neighbouring columns (packs of them), `shares` of the terms, and
// with what is left more pieces, a piece being a chunk of one of the runs.
struct ColumnShape {
  int64_t n, inner, chunk, perRun, pieces, tiles;
  int lanes, shares;

  ColumnShape(int64_t outer, int64_t n, int64_t inner, int64_t chunk, int pack)
      : n(n), inner(inner), chunk(chunk), perRun(ceilDiv(n, chunk)), pieces(outer * perRun), lanes(1), shares(1) {
    while (lanes < kWarp && lanes < inner / pack) lanes *= 2;
    while (shares < 8 && shares < n) shares *= 2;
    tiles = ceilDiv(inner / pack, lanes);
  }
  __host__ __device__ int piecesPerBlock() const { return kColumnThreads / (lanes * shares); }
  int64_t blocks() const { return ceilDiv(pieces, piecesPerBlock()) * tiles; }
};

template <class To>
struct WriteColumn {
  To* y;
  float divisor;
  __device__ __forceinline__ To operator()(const ExactSum& s) const { return fromFloat<To>(s.value() / divisor); }
};
template <>
struct WriteColumn<ExactSum> {
  ExactSum* y;
  float divisor;  // of what comes after
  __device__ __forceinline__ ExactSum operator()(const ExactSum& s) const { return s; }
};

template <int N, class T, class To>
__global__ void __launch_bounds__(kColumnThreads) sumColumnsKernel(const T* x, ColumnShape s, WriteColumn<To> write) {
  __shared__ ExactSum slots[N][kColumnThreads];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % s.lanes, share = thread / s.lanes % s.shares;
  const int64_t block = blockIdx.x, group = block / s.tiles;
  const int64_t piece = group * s.piecesPerBlock() + thread / (s.lanes * s.shares);
  const int64_t column = ((block - group * s.tiles) * s.lanes + lane) * N;
  const bool mine = piece < s.pieces && column < s.inner;
  ExactSum sums[N];
#pragma unroll
  for (int e = 0; e < N; ++e) sums[e] = {0, 0};
  if (mine) {
    const int64_t run = piece / s.perRun, begin = (piece - run * s.perRun) * s.chunk;
    const int terms = static_cast<int>(s.n - begin < s.chunk ? s.n - begin : s.chunk);
    const T* from = x + (run * s.n + begin) * s.inner + column;
#pragma unroll 4
    for (int t = share; t < terms; t += s.shares) {
      const auto pack = loadPack<N>(from + t * s.inner);
#pragma unroll
      for (int e = 0; e < N; ++e) sums[e].add(pack.v[e]);
    }
  }
  if (s.shares > 1) {
#pragma unroll
    for (int e = 0; e < N; ++e) slots[e][thread] = sums[e];
    __syncthreads();
    if (share == 0)
      for (int other = 1; other < s.shares; ++other)
#pragma unroll
        for (int e = 0; e < N; ++e) sums[e].add(slots[e][thread + other * s.lanes]);
  }
  if (!mine || share != 0) return;
  Pack<To, N> y;
#pragma unroll
  for (int e = 0; e < N; ++e) y.v[e] = write(sums[e]);
  storePack(write.y + piece * s.inner + column, y);
}

template <class T, class To>
void launchColumns(const KernelArgs& a, const T* x, const WriteColumn<To>& write, int64_t outer, int64_t n,
                   int64_t inner, int64_t chunk) {
  constexpr int wide = sizeof(T) == 8 ? 2 : 4;
  const auto run = [&](auto kernel, int pack) {
    const ColumnShape shape(outer, n, inner, chunk, pack);
    launch(a, "sum_axes", kernel, {dim3(static_cast<unsigned>(shape.blocks())), dim3(kColumnThreads)}, x, shape, write);
  };
  if (inner % wide == 0 && aligned(x, sizeof(T) * wide) && aligned(write.y, sizeof(To) * wide))
    run(sumColumnsKernel<wide, T, To>, wide);
  else
    run(sumColumnsKernel<1, T, To>, 1);
}

inline size_t columnSumBytes(int64_t outer, int64_t n, int64_t inner) {
  const int64_t chunks = ceilDiv(n, columnChunk(n));
  return chunks == 1 ? 0 : static_cast<size_t>(outer * chunks * inner) * sizeof(ExactSum);
}

// y[o][c] = Σ_t x[o][t][c] / divisor; the scratch holds columnSumBytes.
template <class T, class To>
void sumColumns(const KernelArgs& a, const T* x, To* y, int64_t outer, int64_t n, int64_t inner, float divisor) {
  const int64_t chunk = columnChunk(n), chunks = ceilDiv(n, chunk);
  const WriteColumn<To> last = {y, divisor};
  if (chunks == 1) return launchColumns(a, x, last, outer, n, inner, chunk);
  auto* partial = a.scratchAs<ExactSum>();
  launchColumns(a, x, WriteColumn<ExactSum>{partial, divisor}, outer, n, inner, chunk);
  launchColumns(a, static_cast<const ExactSum*>(partial), last, outer, chunks, inner, chunks);
}

}  // namespace
}  // namespace infinity::cuda
