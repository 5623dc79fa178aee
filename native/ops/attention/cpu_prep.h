// From one row of [q; k; v] to what attention reads: split, normalise, gain, rotate, in one pass over memory.
#pragma once
#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/attention/attention.h"
#include "ops/attention/cpu_product.h"

namespace infinity::INFINITY_ISA {
namespace {

// Rows of a tile; the gain's gradient is summed tile by tile.
constexpr int64_t kPrepRows = 32;

inline int64_t prepTiles(const PrepShape& s) { return (s.rows + kPrepRows - 1) / kPrepRows; }

// Pairs of adjacent floats seen as 64-bit lanes, the even one in the lower half.
typedef uint64_t VecPair __attribute__((vector_size(kLanes * sizeof(float))));

// to[2i], to[2i+1] = the pair of x turned by sign·angle i and multiplied by factor; the table holds cosine and sine of
// every angle, adjacent; `to` may be x.
INFINITY_INLINE void turnPairs(const float* table, const float* x, int64_t width, float factor, float sign, float* to) {
  const VecU negative = bitcast<VecU>(splat(sign)) & 0x80000000u;
  // Even results take −sine, odd ones +sine; the sign turns both.
  const VecPair flip = bitcast<VecPair>(negative) ^ (VecPair{} + 0x80000000u);
  for (int64_t d = 0; d < width; d += kLanes) {
    const int n = width - d < kLanes ? static_cast<int>(width - d) : kLanes;
    const VecPair t = bitcast<VecPair>(loadUpTo(table + d, n));
    const VecF cosine = bitcast<VecF>((t & 0xffffffffu) | (t << 32));
    const VecF sine = bitcast<VecF>(((t >> 32) | (t & 0xffffffff00000000u)) ^ flip);
    const VecF own = loadUpTo(x + d, n) * factor;
    const VecPair pair = bitcast<VecPair>(own);
    const VecF other = bitcast<VecF>((pair << 32) | (pair >> 32));
    storeUpTo(to + d, fma(own, cosine, other * sine), n);
  }
}
template <class U>
void turnPairs(const U* table, const double* x, int64_t width, double factor, double sign, double* to) {
  for (int64_t d = 0; d < width; d += 2) {
    const double c = table[d], s = table[d + 1] * sign;
    const double even = x[d] * factor, odd = x[d + 1] * factor;
    to[d] = even * c - odd * s;
    to[d + 1] = even * s + odd * c;
  }
}

// The rotation of one token. The table may be f32 under an f64 kernel.
struct Rotation {
  const TensorView& table;
  int64_t row, width;
  explicit operator bool() const { return static_cast<bool>(table); }
  INFINITY_INLINE void apply(const float* x, float factor, float sign, float* to) const {
    turnPairs(table.as<float>() + row * width, x, width, factor, sign, to);
  }
  void apply(const double* x, double factor, double sign, double* to) const {
    if (table.dtype == DType::f32)
      turnPairs(table.as<float>() + row * width, x, width, factor, sign, to);
    else
      turnPairs(table.as<double>() + row * width, x, width, factor, sign, to);
  }
};

// 1 / max(‖x‖, 1e-12)
template <class T>
INFINITY_INLINE T inverseNorm(const T* x, int64_t width) {
  const T norm = sqrt(dotRow(x, x, width));
  return 1 / (norm > static_cast<T>(kSmallestNorm) ? norm : static_cast<T>(kSmallestNorm));
}

// gains[h] = exp(min(log gain, ln 100)), 1 without a gain
template <class T>
void gainsOf(const TensorView& logGain, int64_t heads, T* gains) {
  for (int64_t h = 0; h < heads; ++h) {
    const T x = logGain ? logGain.as<T>()[h] : T(0);
    gains[h] = hmax(exp(splat(x < static_cast<T>(kLargestLogGain) ? x : static_cast<T>(kLargestLogGain))));
  }
}

// Inputs qkv [.., L, 3C], log gains [H], rotation [rows, c/2, 2]; outputs q, k, v, of which k and v lie in `rows`.
template <class T>
void prepareQkv(const KernelArgs& a, const QkvPrepParams& params, const PrepShape& s, const PrepRows& rows) {
  T* gains = static_cast<T*>(a.scratch);
  gainsOf(a.in[1], s.heads, gains);
  a.pool->parallelFor(prepTiles(s), [&](int64_t tile) {
    const int64_t last = s.rows < (tile + 1) * kPrepRows ? s.rows : (tile + 1) * kPrepRows;
    for (int64_t row = tile * kPrepRows; row < last; ++row) {
      const T* from = a.in[0].as<T>() + row * 3 * s.channels;
      const int64_t token = row % s.length, cached = rows.at(row / s.length, token);
      const Rotation rotation{a.in[2], params.ropeStart + token, s.width};
      for (int part = 0; part < 2; ++part) {
        for (int64_t h = 0; h < s.heads; ++h) {
          const T* x = from + part * s.channels + h * s.width;
          T* y = a.out[part].as<T>() + (part == 0 ? row : cached) * s.channels + h * s.width;
          const T factor = (params.cosine ? inverseNorm(x, s.width) : T(1)) * (part == 0 ? gains[h] : T(1));
          if (rotation)
            rotation.apply(x, factor, T(1), y);
          else
            for (int64_t d = 0; d < s.width; ++d) y[d] = x[d] * factor;
        }
      }
      __builtin_memcpy(a.out[2].as<T>() + cached * s.channels, from + 2 * s.channels,
                       static_cast<size_t>(s.channels) * sizeof(T));
    }
  });
}

template <class T>
void qkvPrepKernel(const KernelArgs& a) {
  const QkvPrepParams& params = a.paramsAs<QkvPrepParams>();
  const PrepShape s(a.in[0], params.heads);
  prepareQkv<T>(a, params, s, PrepRows(s));
}

template <class T>
void qkvAppendKernel(const KernelArgs& a) {
  const QkvAppendParams& params = a.paramsAs<QkvAppendParams>();
  prepareQkv<T>(a, params.prep, PrepShape(a.in[0], params.prep.heads), PrepRows(params));
}

// The parameters of both begin with those of the preparation.
size_t qkvPrepPlan(const KernelArgs& a) { return a.paramsAs<QkvPrepParams>().heads * dtypeBytes(a.in[0].dtype); }

// Gradient of one head of q or k: gy is undone of its rotation into gx, then of gain and normalisation. Returns the
// gradient of the log gain.
template <class T>
T prepHeadBackward(const T* gy, const T* x, int64_t width, const Rotation& rotation, bool cosine, T gain, T* gx) {
  if (rotation)
    rotation.apply(gy, T(1), T(-1), gx);
  else
    __builtin_memcpy(gx, gy, static_cast<size_t>(width) * sizeof(T));
  const T inverse = cosine ? inverseNorm(x, width) : T(1);
  const T along = dotRow(gx, x, width) * inverse;  // with the unit vector
  // Below the smallest norm the divisor is a constant.
  const bool radial = cosine && inverse < T(1) / static_cast<T>(kSmallestNorm);
  const T slope = radial ? along * inverse : T(0), factor = inverse * gain;
  for (int64_t d = 0; d < width; ++d) gx[d] = (gx[d] - x[d] * slope) * factor;
  return along * gain;
}

// Inputs gq, gk, gv (each may be absent), qkv, log gains, rotation; output gqkv.
// With a gain a second output takes its gradient.
template <class T, bool withGain>
void qkvPrepBackwardKernel(const KernelArgs& a) {
  const QkvPrepParams& params = a.paramsAs<QkvPrepParams>();
  const PrepShape s(a.in[3], params.heads);
  T *gains = static_cast<T*>(a.scratch), *partial = gains + s.heads;
  gainsOf(a.in[4], s.heads, gains);
  a.pool->parallelFor(prepTiles(s), [&](int64_t tile) {
    const int64_t last = s.rows < (tile + 1) * kPrepRows ? s.rows : (tile + 1) * kPrepRows;
    T* sums = partial + tile * s.heads;
    if (withGain)
      for (int64_t h = 0; h < s.heads; ++h) sums[h] = 0;
    for (int64_t row = tile * kPrepRows; row < last; ++row) {
      const T* x = a.in[3].as<T>() + row * 3 * s.channels;
      T* gx = a.out[0].as<T>() + row * 3 * s.channels;
      const Rotation rotation{a.in[5], params.ropeStart + row % s.length, s.width};
      for (int part = 0; part < 3; ++part) {
        const T* gy = a.in[part] ? a.in[part].as<T>() + row * s.channels : nullptr;
        const int64_t at = part * s.channels;
        if (!gy) {
          __builtin_memset(gx + at, 0, static_cast<size_t>(s.channels) * sizeof(T));
        } else if (part == 2) {
          __builtin_memcpy(gx + at, gy, static_cast<size_t>(s.channels) * sizeof(T));
        } else {
          for (int64_t h = 0; h < s.heads; ++h) {
            const int64_t d = h * s.width;
            const T slope = prepHeadBackward(gy + d, x + at + d, s.width, rotation, params.cosine != 0,
                                             part == 0 ? gains[h] : T(1), gx + at + d);
            if (withGain && part == 0) sums[h] += slope;
          }
        }
      }
    }
  });
  if (!withGain) return;
  T* ggain = a.out[1].as<T>();
  for (int64_t h = 0; h < s.heads; ++h) {
    T total = 0;
    for (int64_t tile = 0; tile < prepTiles(s); ++tile) total += partial[tile * s.heads + h];
    ggain[h] = a.in[4].as<T>()[h] <= static_cast<T>(kLargestLogGain) ? total : T(0);
  }
}

size_t qkvPrepBackwardPlan(const KernelArgs& a) {
  const PrepShape s(a.in[3], a.paramsAs<QkvPrepParams>().heads);
  return static_cast<size_t>(s.heads * (prepTiles(s) + 1)) * dtypeBytes(a.in[3].dtype);
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
