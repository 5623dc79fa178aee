// Sums of long runs of contiguous elements: a run is cut into chunks of kChunk elements, a block each, and the chunks'
// sums are added up by one block. Which thread takes which element depends on its index in the run alone.
#pragma once
#include "cuda/launch.h"
#include "cuda/sum.cuh"

namespace infinity::cuda {
namespace {

constexpr int64_t kChunk = 8192;
constexpr int64_t chunksOf(int64_t n) { return ceilDiv(n, kChunk); }
// What `sumRows` needs for `rows` runs of n elements.
inline size_t rowSumBytes(int64_t rows, int64_t n) {
  return chunksOf(n) == 1 ? 0 : static_cast<size_t>(rows * chunksOf(n)) * sizeof(ExactSum);
}

struct AddTerm {
  template <class T>
  __device__ __forceinline__ void operator()(ExactSum& s, const T& x) const {
    s.add(x);
  }
};

// The terms of x[0, n) that fall to this thread of Threads: four neighbours at a time.
template <int Threads, class T, class Term>
__device__ __forceinline__ ExactSum sumShare(const T* x, int64_t n, bool packed, const Term& term) {
  ExactSum s = {0, 0};
  const int thread = static_cast<int>(threadIdx.x) % Threads;
#pragma unroll 4
  for (int64_t i = 4 * thread; i < n; i += 4 * Threads) {
    if (packed && i + 4 <= n) {
      const auto four = loadPack<4>(x + i);
#pragma unroll
      for (int e = 0; e < 4; ++e) term(s, four.v[e]);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (i + e < n) term(s, x[i + e]);
    }
  }
  return s;
}

constexpr int kRowThreads = 256;

template <class To>
struct WriteQuotient {
  To* y;
  float divisor;
  __device__ __forceinline__ void operator()(int64_t i, const ExactSum& s) const {
    y[i] = fromFloat<To>(s.value() / divisor);
  }
};
struct WritePartial {
  ExactSum* partial;
  __device__ __forceinline__ void operator()(int64_t i, const ExactSum& s) const { partial[i] = s; }
};

// Piece i is the i-th of `pieces`; `perRow` of them make a run of n elements. Threads: one warp or the block.
template <int Threads, class T, class Term, class Write>
__global__ void __launch_bounds__(kRowThreads) sumRowsKernel(const T* x, int64_t n, int64_t pieces, int64_t perRow,
                                                             int64_t chunk, bool packed, Term term, Write write) {
  __shared__ ExactSum slots[kRowThreads / kWarp];
  const int64_t piece =
      static_cast<int64_t>(blockIdx.x) * (kRowThreads / Threads) + static_cast<int>(threadIdx.x) / Threads;
  ExactSum s = {0, 0};
  if (piece < pieces) {
    const int64_t row = perRow == 1 ? piece : piece / perRow, begin = (piece - row * perRow) * chunk;
    s = sumShare<Threads>(x + row * n + begin, n - begin < chunk ? n - begin : chunk, packed, term);
  }
  s = blockSum<Threads>(s, slots);
  if (piece < pieces && threadIdx.x % Threads == 0) write(piece, s);
}

template <int Threads, class T, class Term, class Write>
void launchRows(const KernelArgs& a, const char* name, const T* x, int64_t rows, int64_t n, int64_t chunk,
                const Term& term, const Write& write) {
  const int64_t perRow = ceilDiv(n, chunk), pieces = rows * perRow;
  const bool packed = (rows == 1 || n % 4 == 0) && reinterpret_cast<uintptr_t>(x) % (4 * sizeof(T)) == 0;
  const auto blocks = static_cast<unsigned>(ceilDiv(pieces, kRowThreads / Threads));
  launch(a, name, sumRowsKernel<Threads, T, Term, Write>, {dim3(blocks), dim3(kRowThreads)}, x, n, pieces, perRow,
         chunk, packed, term, write);
}

// Whole runs, by a warp each where they are short.
template <class T, class Term, class Write>
void launchWholeRows(const KernelArgs& a, const char* name, const T* x, int64_t rows, int64_t n, const Term& term,
                     const Write& write) {
  if (n <= 2048)
    launchRows<kWarp>(a, name, x, rows, n, n, term, write);
  else
    launchRows<kRowThreads>(a, name, x, rows, n, n, term, write);
}

// y[row] = Σ term(x[row][i]) / divisor for `rows` runs of n elements; the scratch holds rowSumBytes(rows, n).
template <class T, class To, class Term>
void sumRows(const KernelArgs& a, const char* name, const T* x, To* y, int64_t rows, int64_t n, float divisor,
             const Term& term) {
  const WriteQuotient<To> last = {y, divisor};
  const int64_t chunks = chunksOf(n);
  if (chunks == 1) return launchWholeRows(a, name, x, rows, n, term, last);
  auto* partial = a.scratchAs<ExactSum>();
  launchRows<kRowThreads>(a, name, x, rows, n, kChunk, term, WritePartial{partial});
  launchWholeRows(a, name, static_cast<const ExactSum*>(partial), rows, chunks, AddTerm{}, last);
}

}  // namespace
}  // namespace infinity::cuda
