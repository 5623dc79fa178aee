#include "cuda/map.cuh"
#include "cuda/sum.cuh"
#include "cuda/walk.cuh"

namespace infinity::cuda {
namespace {

// ---- forward: rows of packs, one after the other

// in: table [V, C], ids [...]; out: [..., C]. A row that no id may name is zeros, and reported.
template <int N, class T, class To, class I>
__global__ void __launch_bounds__(kMapThreads) embeddingKernel(const T* table, const int32_t* ids, To* y, uint32_t rows,
                                                               Divisor<I> perRow, I packs, uint32_t* fault) {
  for (I i = static_cast<I>(blockIdx.x) * kMapThreads + threadIdx.x; i < packs; i += gridDim.x * kMapThreads) {
    const I position = perRow.divide(i), column = i - position * perRow.value;
    const auto id = static_cast<uint32_t>(ids[position]);
    Pack<T, N> x = {};
    if (id < rows)
      x = loadPack<N>(table + (static_cast<size_t>(id) * perRow.value + column) * N);
    else if (column == 0)
      atomicOr(fault, static_cast<uint32_t>(kIdOutOfRange));
    Pack<To, N> to;
#pragma unroll
    for (int e = 0; e < N; ++e) to.v[e] = fromFloat<To>(toFloat(x.v[e]));
    storePack(y + static_cast<size_t>(i) * N, to);
  }
}

template <class T, class To>
void embedding(const KernelArgs& a) {
  const TensorView& table = a.in[0];
  const T* x = table.as<T>();
  To* y = a.out[0].as<To>();
  const int64_t columns = table.dims[1], n = a.out[0].size();
  constexpr int wide = kPerPack<T> < kPerPack<To> ? kPerPack<T> : kPerPack<To>;
  withIndex(n, [&](auto index) {
    using I = decltype(index);
    const auto run = [&](auto kernel, int per) {
      launch(a, "embedding", kernel, overElements(a, n, per, kMapThreads), x, a.in[1].as<int32_t>(), y, table.dims[0],
             Divisor<I>(columns / per), static_cast<I>(n / per), a.fault);
    };
    if (columns % wide == 0 && aligned(x, sizeof(T) * wide) && aligned(y, sizeof(To) * wide))
      run(embeddingKernel<wide, T, To, I>, wide);
    else
      run(embeddingKernel<1, T, To, I>, 1);
  });
}

void launchEmbedding(const KernelArgs& a) {
  if (a.in[0].dtype == DType::f32) return embedding<float, float>(a);
  withElement(a.out[0].dtype, [&](auto to) { embedding<bf16, decltype(to)>(a); });
}

// A table of bf16 may be read as f32.
bool acceptEmbedding(const TensorView* in, const TensorView* out) {
  return in[0].dtype == out[0].dtype || (in[0].dtype == DType::bf16 && out[0].dtype == DType::f32);
}

// ---- backward: a block for each row of the table. It finds the positions of its id and adds up their gradients; which
// of its warps takes an occurrence depends on how many came before it.

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kPerLane = 8;                 // ids a lane looks at in one turn
constexpr int kTurn = kThreads * kPerLane;  // ids a block looks at
constexpr int kGroup = 1024;                // occurrences that are added up together
constexpr int kRing = 4096;                 // holds the rest of a group and a turn

struct EmbeddingScratch {
  int32_t positions[kRing];
  ExactSum sums[kWarps][4 * kWarp];
  int found[kWarps];
};

// g[column] (+)= Σ gy[position][column] over `count` positions from `head` on, for this block's tiles of columns.
template <int N, class T>
__device__ void addOccurrences(EmbeddingScratch& s, const T* gy, float* g, int64_t columns, int head, int count,
                               bool first) {
  constexpr int tile = N * kWarp;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  for (int64_t base = static_cast<int64_t>(blockIdx.y) * tile; base < columns; base += gridDim.y * tile) {
    ExactSum sums[N];
#pragma unroll
    for (int e = 0; e < N; ++e) sums[e] = {0, 0};
    if (base + lane * N < columns)
#pragma unroll 4
      for (int i = warp; i < count; i += kWarps) {
        const auto x = loadPack<N>(gy + s.positions[(head + i) % kRing] * columns + base + lane * N);
#pragma unroll
        for (int e = 0; e < N; ++e) sums[e].add(x.v[e]);
      }
#pragma unroll
    for (int e = 0; e < N; ++e) s.sums[warp][lane * N + e] = sums[e];
    __syncthreads();
    if (thread < tile && base + thread < columns) {
      ExactSum total = s.sums[0][thread];
      for (int w = 1; w < kWarps; ++w) total.add(s.sums[w][thread]);
      g[base + thread] = first ? total.value() : g[base + thread] + total.value();
    }
    __syncthreads();
  }
}

// in: gy [..., C], ids [...]; out: the gradient of the table [V, C]. gridDim.x = V.
template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    embeddingBackwardKernel(const T* gy, const int32_t* ids, float* out, int64_t n, int64_t columns, uint32_t* fault) {
  __shared__ EmbeddingScratch s;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const auto row = static_cast<int32_t>(blockIdx.x), rows = static_cast<int32_t>(gridDim.x);
  float* g = out + row * columns;
  int head = 0, waiting = 0;
  bool first = true;
  for (int64_t base = 0; base < n; base += kTurn) {
    const int64_t mine = base + warp * (kTurn / kWarps) + lane;
    unsigned matches[kPerLane];
    int count = 0;
    bool outside = false;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int64_t position = mine + i * kWarp;
      const int32_t id = position < n ? ids[position] : rows - 1;
      outside = outside || id < 0 || id >= rows;
      matches[i] = __ballot_sync(kAllLanes, position < n && id == row);
      count += __popc(matches[i]);
    }
    if (outside && row == 0) atomicOr(fault, static_cast<uint32_t>(kIdOutOfRange));
    if (lane == 0) s.found[warp] = count;
    if (!__syncthreads_or(count)) continue;
    int at = head + waiting;
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) at += s.found[w];
      waiting += s.found[w];
    }
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int before = __popc(matches[i] & ((1u << lane) - 1));
      if (matches[i] >> lane & 1) s.positions[(at + before) % kRing] = static_cast<int32_t>(mine + i * kWarp);
      at += __popc(matches[i]);
    }
    __syncthreads();
    for (; waiting >= kGroup; waiting -= kGroup, head = (head + kGroup) % kRing, first = false)
      addOccurrences<N>(s, gy, g, columns, head, kGroup, first);
  }
  if (first || waiting > 0) addOccurrences<N>(s, gy, g, columns, head, waiting, first);
}

template <class T>
void embeddingBackward(const KernelArgs& a) {
  const int64_t columns = a.out[0].dims[1], n = a.in[1].size();
  const uint32_t rows = a.out[0].dims[0];
  const T* gy = a.in[0].as<T>();
  const auto run = [&](auto kernel, int per) {
    // Enough blocks for the card where the table is short.
    const int64_t tiles = ceilDiv(columns, per * kWarp), wanted = ceilDiv(a.device->processors * 4, rows);
    const auto groups = static_cast<unsigned>(wanted < tiles ? wanted : tiles);
    launch(a, "embedding_backward", kernel, {dim3(rows, groups), dim3(kThreads)}, gy, a.in[1].as<int32_t>(),
           a.out[0].as<float>(), n, columns, a.fault);
  };
  if (columns % 4 == 0 && aligned(gy, 4 * sizeof(T)))
    run(embeddingBackwardKernel<4, T>, 4);
  else
    run(embeddingBackwardKernel<1, T>, 1);
}

void launchEmbeddingBackward(const KernelArgs& a) {
  withElement(a.in[0].dtype, [&](auto element) { embeddingBackward<decltype(element)>(a); });
}

bool acceptEmbeddingBackward(const TensorView*, const TensorView* out) { return out[0].dtype == DType::f32; }

}  // namespace

INFINITY_CUDA_KERNEL(embedding, launchEmbedding, nullptr, acceptEmbedding);
INFINITY_CUDA_KERNEL(embedding_backward, launchEmbeddingBackward, nullptr, acceptEmbeddingBackward);

}  // namespace infinity::cuda
