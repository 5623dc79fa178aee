// From one row of [q; k; v] to what attention reads: split, normalise, gain, rotate, in one pass over memory. A few
// lanes take a head, a block some heads of a row; where a head lies in the row it lies in q, k or v.
#pragma once
#include "cuda/launch.h"
#include "cuda/reduce.cuh"
#include "ops/attention/attention.h"

namespace infinity::cuda {
namespace {

constexpr int kPrepThreads = 256;  // at most
// Packs of 16 bytes that a lane holds.
constexpr int kPrepPacks = 2;

// A tensor of floats or of bf16 that is read as floats; null reads as absent.
struct FloatSource {
  const void* data;
  bool narrow;
  explicit FloatSource(const TensorView& x) : data(x.data), narrow(x.dtype == DType::bf16) {}
  __device__ __forceinline__ float operator[](int64_t i) const {
    return narrow ? toFloat(static_cast<const bf16*>(data)[i]) : static_cast<const float*>(data)[i];
  }
  // N numbers from `at` on, at most 16 bytes at a time.
  template <int N>
  __device__ __forceinline__ void loadPacks(int64_t at, float (&to)[N]) const {
    if (narrow) {
      const Pack<bf16, N> pack = loadPack<N>(static_cast<const bf16*>(data) + at);
#pragma unroll
      for (int i = 0; i < N; ++i) to[i] = toFloat(pack.v[i]);
    } else {
#pragma unroll
      for (int i = 0; i < N; i += 4) {
        const Pack<float, 4> pack = loadPack<4>(static_cast<const float*>(data) + at + i);
#pragma unroll
        for (int j = 0; j < 4; ++j) to[i + j] = pack.v[j];
      }
    }
  }
};

struct QkvPrep {
  PrepShape shape;
  QkvPrepParams params;
  PrepRows rows;  // of k and v
  FloatSource logGain, rotation;
  bool aligned;         // heads start and end on 16 bytes in all tensors but the rotation
  bool alignedTurning;  // and so does the rotation
};

// A head spread over kLanes lanes: lane l holds the packs l, l + kLanes, ...
template <class T, int kLanes>
struct HeadSlice {
  static constexpr int kPack = kPerPack<T>;
  float x[kPrepPacks][kPack];

  static __device__ __forceinline__ int channel(int pack) { return (pack * kLanes + laneOfHead()) * kPack; }
  static __device__ __forceinline__ int laneOfHead() { return static_cast<int>(threadIdx.x) % kLanes; }

  // Calls f(channel, element) for the elements that exist.
  template <class F>
  __device__ __forceinline__ void each(int width, const F& f) {
#pragma unroll
    for (int p = 0; p < kPrepPacks; ++p)
#pragma unroll
      for (int i = 0; i < kPack; ++i)
        if (channel(p) + i < width) f(channel(p) + i, x[p][i]);
  }
  // Zeros where there is no head, and beyond its width.
  __device__ __forceinline__ void load(const T* head, int width, bool aligned) {
#pragma unroll
    for (int p = 0; p < kPrepPacks; ++p) {
      Pack<T, kPack> pack = {};
      if (head && aligned) {
        if (channel(p) < width) pack = loadPack<kPack>(head + channel(p));
      } else if (head) {
#pragma unroll
        for (int i = 0; i < kPack; ++i)
          if (channel(p) + i < width) pack.v[i] = head[channel(p) + i];
      }
#pragma unroll
      for (int i = 0; i < kPack; ++i) x[p][i] = toFloat(pack.v[i]);
    }
  }
  __device__ __forceinline__ void store(T* head, int width, bool aligned) const {
#pragma unroll
    for (int p = 0; p < kPrepPacks; ++p) {
      Pack<T, kPack> pack;
#pragma unroll
      for (int i = 0; i < kPack; ++i) pack.v[i] = fromFloat<T>(x[p][i]);
      if (aligned) {
        if (channel(p) < width) storePack(head + channel(p), pack);
      } else {
#pragma unroll
        for (int i = 0; i < kPack; ++i)
          if (channel(p) + i < width) head[channel(p) + i] = pack.v[i];
      }
    }
  }
  // Turns pairs of channels by sign·angle; the table holds cosine and sine of every pair of a token, adjacent.
  __device__ __forceinline__ void turn(const FloatSource& table, int64_t token, int width, float sign, bool aligned) {
#pragma unroll
    for (int p = 0; p < kPrepPacks; ++p) {
      if (channel(p) >= width) continue;
      const int64_t at = token * width + channel(p);
      float angles[kPack];
      if (aligned) {
        table.loadPacks(at, angles);
      } else {
#pragma unroll
        for (int i = 0; i < kPack; ++i) angles[i] = channel(p) + i < width ? table[at + i] : 0.0f;
      }
#pragma unroll
      for (int i = 0; i < kPack; i += 2) {
        const float cosine = angles[i], sine = angles[i + 1] * sign, even = x[p][i], odd = x[p][i + 1];
        x[p][i] = even * cosine - odd * sine;
        x[p][i + 1] = even * sine + odd * cosine;
      }
    }
  }
  // Over the head; all lanes of the warp take part.
  __device__ __forceinline__ float dot(const HeadSlice& y) const {
    float sum = 0;
#pragma unroll
    for (int p = 0; p < kPrepPacks; ++p)
#pragma unroll
      for (int i = 0; i < kPack; ++i) sum = fmaf(x[p][i], y.x[p][i], sum);
    return warpReduce<kLanes>(sum);
  }
};

__device__ __forceinline__ float gainOf(const FloatSource& logGain, int64_t head) {
  return logGain.data ? expf(fminf(logGain[head], static_cast<float>(kLargestLogGain))) : 1.0f;
}
__device__ __forceinline__ float inverseNorm(float squares) {
  return 1.0f / fmaxf(sqrtf(squares), static_cast<float>(kSmallestNorm));
}

// The head of a row that a thread works on: one of 3·heads slots, q's before k's before v's. The grid's y counts the
// blocks that share a row.
struct PrepSlot {
  int64_t row;
  int sample, token, slot, part, head;
  bool exists;
  __device__ __forceinline__ PrepSlot(const PrepShape& s, int lanes)
      : row(blockIdx.x),
        sample(static_cast<int>(blockIdx.x / static_cast<unsigned>(s.length))),
        token(static_cast<int>(blockIdx.x % static_cast<unsigned>(s.length))),
        slot(static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) / lanes),
        part(slot / static_cast<int>(s.heads)),
        head(slot % static_cast<int>(s.heads)),
        exists(part < 3) {}
  // The first channel in qkv.
  __device__ __forceinline__ int64_t channel(const PrepShape& s) const { return (row * 3 * s.heads + slot) * s.width; }
};

// As few blocks a row as hold its slots, of as few warps.
template <int kLanes>
LaunchShape overSlots(const PrepShape& s) {
  const int64_t threads = 3 * s.heads * kLanes, blocks = ceilDiv(threads, kPrepThreads);
  return {dim3(static_cast<unsigned>(s.rows), static_cast<unsigned>(blocks)),
          dim3(static_cast<unsigned>(ceilDiv(ceilDiv(threads, blocks), kWarp) * kWarp))};
}

template <class T, int kLanes>
__global__ void __launch_bounds__(kPrepThreads) qkvPrep(QkvPrep f, const T* qkv, T* q, T* k, T* v) {
  const PrepSlot at(f.shape, kLanes);
  const int width = static_cast<int>(f.shape.width);
  HeadSlice<T, kLanes> x;
  x.load(at.exists ? qkv + at.channel(f.shape) : nullptr, width, f.aligned);
  const float squares = x.dot(x);
  if (!at.exists) return;
  if (at.part < 2) {
    const float factor =
        (f.params.cosine ? inverseNorm(squares) : 1.0f) * (at.part == 0 ? gainOf(f.logGain, at.head) : 1.0f);
    x.each(width, [&](int, float& e) { e *= factor; });
    if (f.rotation.data) x.turn(f.rotation, f.params.ropeStart + at.token, width, 1.0f, f.alignedTurning);
  }
  T* const to = at.part == 0 ? q : at.part == 1 ? k : v;
  const int64_t row = at.part == 0 ? at.row : f.rows.at(at.sample, at.token);
  x.store(to + (row * f.shape.heads + at.head) * width, width, f.aligned);
}

// gq, gk and gv may be null. slopes, where given, take each row's gradient of the log gains [rows, H].
template <class T, int kLanes>
__global__ void __launch_bounds__(kPrepThreads)
    qkvPrepBackward(QkvPrep f, const T* gq, const T* gk, const T* gv, const T* qkv, T* gqkv, float* slopes) {
  const PrepSlot at(f.shape, kLanes);
  const int width = static_cast<int>(f.shape.width);
  const T* const from = at.part == 0 ? gq : at.part == 1 ? gk : gv;
  const int64_t head = at.row * f.shape.heads + at.head;
  HeadSlice<T, kLanes> g, x;
  g.load(at.exists && from ? from + head * width : nullptr, width, f.aligned);
  x.load(at.exists && from && at.part < 2 ? qkv + at.channel(f.shape) : nullptr, width, f.aligned);
  if (at.part < 2 && f.rotation.data) g.turn(f.rotation, f.params.ropeStart + at.token, width, -1.0f, f.alignedTurning);
  const float squares = x.dot(x), product = g.dot(x);
  if (!at.exists) return;
  if (at.part < 2) {
    const float inverse = f.params.cosine ? inverseNorm(squares) : 1.0f;
    const float gain = at.part == 0 ? gainOf(f.logGain, at.head) : 1.0f;
    const float along = product * inverse;  // with the unit vector
    // Below the smallest norm the divisor is a constant.
    const bool radial = f.params.cosine && sqrtf(squares) > static_cast<float>(kSmallestNorm);
    const float slope = radial ? along * inverse : 0.0f, factor = inverse * gain;
#pragma unroll
    for (int p = 0; p < kPrepPacks; ++p)
#pragma unroll
      for (int i = 0; i < kPerPack<T>; ++i) g.x[p][i] = (g.x[p][i] - x.x[p][i] * slope) * factor;
    if (slopes && at.part == 0 && g.laneOfHead() == 0) slopes[head] = along * gain;
  }
  g.store(gqkv + at.channel(f.shape), width, f.aligned);
}

// Sums of up to kGainRows rows [n, H] a block into [ceil(n / kGainRows), H]: 32 heads by 8 lines of rows.
constexpr int kGainRows = 256;
constexpr int kGainLines = 8;
__global__ void sumSlopes(const float* from, int64_t rows, int heads, float* to) {
  __shared__ float lines[kGainLines][kWarp];
  const int head = static_cast<int>(blockIdx.y * kWarp + threadIdx.x);
  const int64_t first = int64_t{blockIdx.x} * kGainRows;
  float sum = 0;
  for (int i = static_cast<int>(threadIdx.y); i < kGainRows; i += kGainLines)
    if (head < heads && first + i < rows) sum += from[(first + i) * heads + head];
  lines[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || head >= heads) return;
  for (int i = 1; i < kGainLines; ++i) sum += lines[i][threadIdx.x];
  to[blockIdx.x * int64_t{heads} + head] = sum;
}

// The clamped gain has no gradient.
template <class T>
__global__ void gainGradient(FloatSource logGain, const float* sums, int heads, T* to) {
  for (int h = static_cast<int>(threadIdx.x); h < heads; h += static_cast<int>(blockDim.x))
    to[h] = fromFloat<T>(logGain[h] <= static_cast<float>(kLargestLogGain) ? sums[h] : 0.0f);
}

}  // namespace
}  // namespace infinity::cuda
