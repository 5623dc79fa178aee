// Vectors for the CPU kernels: one source for every instruction set, on the compilers' vector extensions.
//
// A kernel is a template over T = float or double. `Vec<float>` has 16 (AVX-512), 8 (AVX2) or 4 (generic, NEON)
// lanes; `Vec<double>` is a plain double, so the same text is the f64 reference. Every function below has
// both overloads. Arithmetic uses the operators; a fused multiply-add is written `fma(a, b, c)` = a·b + c and is never
// left to the compiler's contraction, so that two kernels that name the same operations give the same bits.
//
// The unit that includes this file defines INFINITY_ISA (generic, avx2, avx512, neon) and is compiled for that set.
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INFINITY_INLINE inline __attribute__((always_inline))

namespace infinity::INFINITY_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float VecF __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t VecI __attribute__((vector_size(kLanes * sizeof(int32_t))));
typedef uint32_t VecU __attribute__((vector_size(kLanes * sizeof(uint32_t))));
typedef uint16_t VecH __attribute__((vector_size(kLanes * sizeof(uint16_t))));

template <class T>
struct VecOf;
template <>
struct VecOf<float> {
  using type = VecF;
  static constexpr int lanes = kLanes;
};
template <>
struct VecOf<double> {
  using type = double;
  static constexpr int lanes = 1;
};
template <class T>
using Vec = typename VecOf<T>::type;
/// Lanes of Vec<T>: kLanes for float, 1 for double.
template <class T>
constexpr int lanesOf = VecOf<T>::lanes;

// ---- moving data; pointers need no alignment

template <class To, class From>
INFINITY_INLINE To bitcast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

INFINITY_INLINE VecF load(const float* p) {
  VecF v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
INFINITY_INLINE double load(const double* p) { return *p; }
INFINITY_INLINE void store(float* p, VecF v) { __builtin_memcpy(p, &v, sizeof v); }
INFINITY_INLINE void store(double* p, double v) { *p = v; }

#if defined(__AVX512F__)
INFINITY_INLINE __mmask16 tailMask(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
#elif defined(__AVX2__)
INFINITY_INLINE __m256i tailMask(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif

/// The first n lanes (0 ≤ n ≤ lanes) from p, zeros above; reads nothing beyond p[n − 1].
INFINITY_INLINE VecF loadTail(const float* p, int n) {
#if defined(__AVX512F__)
  return reinterpret_cast<VecF>(_mm512_maskz_loadu_ps(tailMask(n), p));
#elif defined(__AVX2__)
  return reinterpret_cast<VecF>(_mm256_maskload_ps(p, tailMask(n)));
#else
  VecF v = {};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
#endif
}
INFINITY_INLINE double loadTail(const double* p, int n) { return n > 0 ? *p : 0.0; }

/// Writes the first n lanes and touches nothing beyond p[n − 1].
INFINITY_INLINE void storeTail(float* p, VecF v, int n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, tailMask(n), reinterpret_cast<__m512>(v));
#elif defined(__AVX2__)
  _mm256_maskstore_ps(p, tailMask(n), reinterpret_cast<__m256>(v));
#else
  for (int i = 0; i < n; ++i) p[i] = v[i];
#endif
}
INFINITY_INLINE void storeTail(double* p, double v, int n) {
  if (n > 0) *p = v;
}

/// All lanes when n is their number, else as loadTail and storeTail.
INFINITY_INLINE VecF loadUpTo(const float* p, int n) { return n == kLanes ? load(p) : loadTail(p, n); }
INFINITY_INLINE double loadUpTo(const double* p, int n) { return loadTail(p, n); }
INFINITY_INLINE void storeUpTo(float* p, VecF v, int n) { n == kLanes ? store(p, v) : storeTail(p, v, n); }
INFINITY_INLINE void storeUpTo(double* p, double v, int n) { storeTail(p, v, n); }

/// v with zeros from lane n on.
INFINITY_INLINE VecF keepFirst(VecF v, int n) {
  if (n == kLanes) return v;
  for (int i = n; i < kLanes; ++i) v[i] = 0;
  return v;
}
INFINITY_INLINE double keepFirst(double v, int n) { return n > 0 ? v : 0.0; }

INFINITY_INLINE VecF splat(float x) { return x - VecF{}; }
INFINITY_INLINE double splat(double x) { return x; }
/// A constant in the type of T's vectors: splatTo<T>(0.5).
template <class T>
INFINITY_INLINE Vec<T> splatTo(double x) {
  return splat(static_cast<T>(x));
}
/// All bits of x in every lane, as signed integers.
INFINITY_INLINE VecI splatInt(int32_t x) { return x - VecI{}; }

// ---- arithmetic beyond the operators

INFINITY_INLINE VecF fma(VecF a, VecF b, VecF c) {
#if defined(__AVX512F__)
  return reinterpret_cast<VecF>(
      _mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif defined(__AVX2__)
  return reinterpret_cast<VecF>(
      _mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#elif defined(__ARM_NEON) && defined(__aarch64__)
  return bitcast<VecF>(vfmaq_f32(bitcast<float32x4_t>(c), bitcast<float32x4_t>(a), bitcast<float32x4_t>(b)));
#else
  return a * b + c;
#endif
}
INFINITY_INLINE double fma(double a, double b, double c) { return a * b + c; }

/// The larger; b where either is NaN, as the machine instruction has it.
INFINITY_INLINE VecF max(VecF a, VecF b) { return a > b ? a : b; }
INFINITY_INLINE double max(double a, double b) { return a > b ? a : b; }
/// The smaller; b where either is NaN.
INFINITY_INLINE VecF min(VecF a, VecF b) { return a < b ? a : b; }
INFINITY_INLINE double min(double a, double b) { return a < b ? a : b; }

INFINITY_INLINE VecF abs(VecF a) { return bitcast<VecF>(bitcast<VecI>(a) & splatInt(0x7fffffff)); }
INFINITY_INLINE double abs(double a) { return __builtin_fabs(a); }
/// |a| with the sign of b.
INFINITY_INLINE VecF copysign(VecF a, VecF b) {
  return bitcast<VecF>((bitcast<VecI>(a) & splatInt(0x7fffffff)) | (bitcast<VecI>(b) & splatInt(INT32_MIN)));
}
INFINITY_INLINE double copysign(double a, double b) { return __builtin_copysign(a, b); }

INFINITY_INLINE VecF sqrt(VecF a) {
#if defined(__AVX512F__)
  // The masked form has no undefined operand for GCC to warn about; it compiles to the plain instruction.
  return reinterpret_cast<VecF>(_mm512_maskz_sqrt_ps(0xffff, reinterpret_cast<__m512>(a)));
#elif defined(__AVX2__)
  return reinterpret_cast<VecF>(_mm256_sqrt_ps(reinterpret_cast<__m256>(a)));
#else
  for (int i = 0; i < kLanes; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
#endif
}
INFINITY_INLINE float sqrt(float a) { return __builtin_sqrtf(a); }
INFINITY_INLINE double sqrt(double a) { return __builtin_sqrt(a); }

/// Where x > 0, lane 0 in the most significant of as many places as there are lanes.
INFINITY_INLINE uint32_t positiveLanes(VecF x) {
#if defined(__AVX512F__)
  const __m512i reversed = _mm512_set_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512 y = _mm512_permutexvar_ps(reversed, reinterpret_cast<__m512>(x));
  return _mm512_cmp_ps_mask(y, _mm512_setzero_ps(), _CMP_GT_OQ);
#elif defined(__AVX2__)
  const __m256 y = _mm256_permutevar8x32_ps(reinterpret_cast<__m256>(x), _mm256_set_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(y, _mm256_setzero_ps(), _CMP_GT_OQ)));
#else
  uint32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits = bits << 1 | (x[i] > 0);
  return bits;
#endif
}
INFINITY_INLINE uint32_t positiveLanes(double x) { return x > 0; }

// ---- reductions across lanes, always halves onto halves

namespace detail {
/// Folds the upper half of N floats onto the lower with `f`, down to one.
template <int N, class F>
INFINITY_INLINE float foldLanes(const float* x, const F& f) {
  if constexpr (N == 2) {
    return f(x[0], x[1]);
  } else {
    typedef float Half __attribute__((vector_size(N / 2 * sizeof(float))));
    Half lower, upper;
    __builtin_memcpy(&lower, x, sizeof lower);
    __builtin_memcpy(&upper, x + N / 2, sizeof upper);
    lower = f(lower, upper);
    float folded[N / 2];
    __builtin_memcpy(folded, &lower, sizeof lower);
    return foldLanes<N / 2>(folded, f);
  }
}
template <class F>
INFINITY_INLINE float foldLanes(VecF v, const F& f) {
  float x[kLanes];
  __builtin_memcpy(x, &v, sizeof v);
  return foldLanes<kLanes>(x, f);
}
}  // namespace detail

INFINITY_INLINE float hsum(VecF v) {
  return detail::foldLanes(v, [](auto a, auto b) { return a + b; });
}
INFINITY_INLINE double hsum(double v) { return v; }
INFINITY_INLINE float hmax(VecF v) {
  return detail::foldLanes(v, [](auto a, auto b) { return a > b ? a : b; });
}
INFINITY_INLINE double hmax(double v) { return v; }

// ---- bf16, stored as the upper half of an f32

INFINITY_INLINE float fromBf16(uint16_t h) { return bitcast<float>(static_cast<uint32_t>(h) << 16); }
/// To nearest, ties to even; a NaN stays a (quiet) NaN.
INFINITY_INLINE uint16_t toBf16(float f) {
  const uint32_t u = bitcast<uint32_t>(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
INFINITY_INLINE VecF widen(VecH h) { return bitcast<VecF>(__builtin_convertvector(h, VecU) << 16); }
INFINITY_INLINE VecH narrow(VecF f) {
  const VecU u = bitcast<VecU>(f);
  const VecU even = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const VecU nan = (u >> 16) | 0x40u;
  return __builtin_convertvector((u & 0x7fffffffu) > 0x7f800000u ? nan : even, VecH);
}
/// Lanes of bf16 from p, widened.
INFINITY_INLINE VecF load(const uint16_t* p) {
  VecH h;
  __builtin_memcpy(&h, p, sizeof h);
  return widen(h);
}
INFINITY_INLINE VecF loadTail(const uint16_t* p, int n) {
  VecH h = {};
  for (int i = 0; i < n; ++i) h[i] = p[i];
  return widen(h);
}
INFINITY_INLINE void store(uint16_t* p, VecF v) {
  const VecH h = narrow(v);
  __builtin_memcpy(p, &h, sizeof h);
}
INFINITY_INLINE void storeTail(uint16_t* p, VecF v, int n) {
  const VecH h = narrow(v);
  for (int i = 0; i < n; ++i) p[i] = h[i];
}

// ---- elementary functions, within about 2 ulp; NaN stays NaN, infinities and zeros give their limits

namespace detail {
/// 2^n for −252 ≤ n ≤ 256 in two factors, so that subnormal results and overflow come out of the multiplications.
INFINITY_INLINE VecF scaleByPowerOfTwo(VecF v, VecI n) {
  const VecI half = n >> 1;
  return v * bitcast<VecF>((half + 127) << 23) * bitcast<VecF>((n - half + 127) << 23);
}
}  // namespace detail

INFINITY_INLINE VecF exp(VecF x) {
  // x = n·ln2 + r with |r| ≤ ln2/2; the comparisons are written so that NaN passes through.
  const VecF lo = splat(-104.0f), hi = splat(89.0f);
  VecF c = x < lo ? lo : x;
  c = c > hi ? hi : c;
  const VecF magic = splat(12582912.0f);  // 1.5·2^23: adding it rounds to the nearest integer
  const VecF n = fma(c, splat(1.44269504088896341f), magic) - magic;
  VecF r = fma(n, splat(-0.693145751953125f), c);
  r = fma(n, splat(-1.42860682030941723212e-6f), r);
  VecF p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + 1.0f;
  // A NaN has no integer: give it 0 so that the conversion is defined.
  const VecF whole = c == c ? n : splat(0.0f);
  return detail::scaleByPowerOfTwo(p, __builtin_convertvector(whole, VecI));
}
INFINITY_INLINE double exp(double x) { return __builtin_exp(x); }

INFINITY_INLINE VecF log(VecF x) {
  const VecF smallest = splat(1.17549435e-38f);
  const VecI subnormal = x < smallest;
  const VecF scaled = subnormal ? x * 8388608.0f : x;
  VecI bits = bitcast<VecI>(scaled);
  // Mantissa in [√½, √2): take the exponent relative to √½.
  const VecI shifted = bits - splatInt(0x3f3504f3);
  VecI e = shifted >> 23;
  const VecF m = bitcast<VecF>((shifted & splatInt(0x007fffff)) + splatInt(0x3f3504f3));
  const VecF ef = __builtin_convertvector(e - (subnormal & 23), VecF);
  const VecF f = m - 1.0f;
  const VecF z = f * f;
  VecF p = splat(7.0376836292e-2f);
  p = fma(p, f, splat(-1.1514610310e-1f));
  p = fma(p, f, splat(1.1676998740e-1f));
  p = fma(p, f, splat(-1.2420140846e-1f));
  p = fma(p, f, splat(1.4249322787e-1f));
  p = fma(p, f, splat(-1.6668057665e-1f));
  p = fma(p, f, splat(2.0000714765e-1f));
  p = fma(p, f, splat(-2.4999993993e-1f));
  p = fma(p, f, splat(3.3333331174e-1f));
  p = p * f * z;
  p = fma(ef, splat(-2.12194440e-4f), p);
  p = fma(z, splat(-0.5f), p);
  VecF y = fma(ef, splat(0.693359375f), f + p);
  const VecF infinity = splat(__builtin_inff());
  y = x == infinity ? infinity : y;
  y = x == 0.0f ? -infinity : y;
  return (x < 0.0f) | (x != x) ? splat(__builtin_nanf("")) : y;
}
INFINITY_INLINE double log(double x) { return __builtin_log(x); }

INFINITY_INLINE VecF tanh(VecF x) {
  const VecF a = abs(x);
  const VecF z = x * x;
  VecF p = splat(-5.70498872745e-3f);
  p = fma(p, z, splat(2.06390887954e-2f));
  p = fma(p, z, splat(-5.37397155531e-2f));
  p = fma(p, z, splat(1.33314422036e-1f));
  p = fma(p, z, splat(-3.33332819422e-1f));
  const VecF small = fma(p * z, x, x);
  const VecF large = copysign(1.0f - 2.0f / (exp(a + a) + 1.0f), x);
  return a < 0.625f ? small : large;
}
INFINITY_INLINE double tanh(double x) { return __builtin_tanh(x); }

INFINITY_INLINE VecF sigmoid(VecF x) { return 1.0f / (1.0f + exp(-x)); }
INFINITY_INLINE double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

/// log(1 + eˣ) without overflow and without loss where eˣ is small.
template <class V>
INFINITY_INLINE V softplus(V x) {
  // log1p(t) = log(u)·t / (u − 1) with u = 1 + t undoes the rounding of the sum; u = 1 gives t itself.
  const V t = exp(-abs(x));
  const V u = 1 + t;
  const V tiny = t, exact = log(u) * (t / (u - 1));
  return max(x, V{}) + (u == 1 ? tiny : exact);
}

/// GELU in its tanh form, written as x·σ(2u), u = √(2/π)(x + 0.044715x³), which keeps its digits for negative x.
template <class V>
INFINITY_INLINE V gelu(V x) {
  using T = decltype(hsum(x));
  const V u = splat(T(1.5957691216057308)) * fma(x * x, splat(T(0.044715)) * x, x);
  return x * sigmoid(u);
}
/// Derivative of `gelu`.
template <class V>
INFINITY_INLINE V geluGrad(V x) {
  using T = decltype(hsum(x));
  const V x2 = x * x;
  const V s = sigmoid(splat(T(1.5957691216057308)) * fma(x2, splat(T(0.044715)) * x, x));
  const V du = splat(T(1.5957691216057308)) * fma(x2, splat(T(3 * 0.044715)), splat(T(1)));
  return fma(x * s * (1 - s), du, s);
}
/// SiLU: x·σ(x).
template <class V>
INFINITY_INLINE V silu(V x) {
  return x * sigmoid(x);
}
/// Derivative of `silu`.
template <class V>
INFINITY_INLINE V siluGrad(V x) {
  const V s = sigmoid(x);
  return s * fma(x, 1 - s, 1 + V{});
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
