#include "ops/quantize/quantize.h"

#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/bits/lanes.h"

namespace infinity::INFINITY_ISA {
namespace {

constexpr int64_t kRowsPerTile = 64;

template <class F>
void overRows(const KernelArgs& a, int64_t rows, int64_t perTile, const F& body) {
  a.pool->parallelFor(tilesFor(rows, perTile), [&](int64_t tile) {
    const int64_t begin = tile * perTile, end = begin + perTile;
    body(tile, begin, end < rows ? end : rows);
  });
}

template <class T>
INFINITY_INLINE int lanesAt(int64_t j, int64_t d) {
  return d - j < lanesOf<T> ? static_cast<int>(d - j) : lanesOf<T>;
}

template <class T>
T dot(const T* x, const T* y, int64_t d) {
  Vec<T> sum = {};
  for (int64_t j = 0; j < d; j += lanesOf<T>) {
    const int n = lanesAt<T>(j, d);
    sum = fma(loadUpTo(x + j, n), loadUpTo(y + j, n), sum);
  }
  return hsum(sum);
}

template <class T>
T flooredNorm(const T* x, int64_t d, bool* floored) {
  const T norm = static_cast<T>(__builtin_sqrt(static_cast<double>(dot(x, x, d))));
  const T floor = static_cast<T>(kNormFloor);
  *floored = norm < floor;
  return *floored ? floor : norm;
}

template <class T>
void l2NormalizeKernel(const KernelArgs& a) {
  const int64_t d = a.in[0].cols();
  overRows(a, a.in[0].rows(), kRowsPerTile, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* x = a.in[0].as<T>() + r * d;
      T* z = a.out[0].as<T>() + r * d;
      bool floored;
      const Vec<T> norm = splat(flooredNorm(x, d, &floored));
      for (int64_t j = 0; j < d; j += lanesOf<T>) {
        const int n = lanesAt<T>(j, d);
        storeUpTo(z + j, loadUpTo(x + j, n) / norm, n);
      }
    }
  });
}

// dx = (dz − z·⟨z, dz⟩)/‖x‖; below the floor the norm is a constant.
template <class T>
void l2NormalizeBackwardKernel(const KernelArgs& a) {
  const int64_t d = a.in[0].cols();
  overRows(a, a.in[0].rows(), kRowsPerTile, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T *gz = a.in[0].as<T>() + r * d, *x = a.in[1].as<T>() + r * d;
      T* gx = a.out[0].as<T>() + r * d;
      bool floored;
      const T norm = flooredNorm(x, d, &floored);
      const T along = floored ? T(0) : dot(gz, x, d) / norm / norm;
      for (int64_t j = 0; j < d; j += lanesOf<T>) {
        const int n = lanesAt<T>(j, d);
        storeUpTo(gx + j, fma(splat(-along), loadUpTo(x + j, n), loadUpTo(gz + j, n)) / splat(norm), n);
      }
    }
  });
}

template <class T>
void signQuantizeKernel(const KernelArgs& a) {
  const T* z = a.in[0].as<T>();
  T* codes = a.out[0].as<T>();
  uint8_t* bits = a.out[1].as<uint8_t>();
  const T magnitude = a.paramsAs<SignQuantizeParams>().magnitude;
  overRows(a, a.in[0].size(), kElementsPerTile, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += lanesOf<T>) {
      const int n = lanesAt<T>(i, end);
      const Vec<T> v = loadUpTo(z + i, n);
      storeUpTo(codes + i, signed_(v, magnitude), n);
      storePositive(bits + i, v, n);
    }
  });
}

// ---- factorised penalties: each bit is a two-point distribution of its own

template <class V>
INFINITY_INLINE V entropyTerm(V p) {
  using T = decltype(hsum(p));
  return -p * log(p + splat(T(kBitLogOffset)));
}
/// Derivative of −entropyTerm.
template <class V>
INFINITY_INLINE V entropySlope(V p) {
  using T = decltype(hsum(p));
  const V q = p + splat(T(kBitLogOffset));
  return log(q) + p / q;
}

template <class T>
size_t bitPenaltiesPlanOf(const KernelArgs& a) {
  return static_cast<size_t>(tilesFor(a.in[0].rows(), kRowsPerTile) * (2 * a.in[0].cols() + 2)) * sizeof(T);
}
size_t bitPenaltiesPlan(const KernelArgs& a) {
  return a.in[0].dtype == DType::f64 ? bitPenaltiesPlanOf<double>(a) : bitPenaltiesPlanOf<float>(a);
}

// z [..., d] -> per-sample entropy [], codebook entropy [], commitment [], mean probabilities [d, 2] (of −1, of +1).
template <class T>
void bitPenaltiesKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<PenaltyParams>();
  const int64_t d = a.in[0].cols(), rows = a.in[0].rows(), blocks = tilesFor(rows, kRowsPerTile), stride = 2 * d + 2;
  T* scratch = static_cast<T*>(a.scratch);
  const T magnitude = p.magnitude;
  const Vec<T> logitScale = splat(static_cast<T>(p.logitScale));
  // A block of rows sums each channel in the order of its rows; blocks are added in order below.
  overRows(a, rows, kRowsPerTile, [&](int64_t block, int64_t begin, int64_t end) {
    T* sums = scratch + block * stride;
    T entropy = 0, distance = 0;
    for (int64_t j = 0; j < d; j += lanesOf<T>) {
      const int n = lanesAt<T>(j, d);
      Vec<T> minus = {}, plus = {}, h = {}, c = {};
      for (int64_t r = begin; r < end; ++r) {
        const Vec<T> z = loadUpTo(a.in[0].as<T>() + r * d + j, n);
        const Vec<T> m = sigmoid(-logitScale * z), q = sigmoid(logitScale * z), off = z - signed_(z, magnitude);
        minus += m;
        plus += q;
        h += entropyTerm(m) + entropyTerm(q);
        c = fma(off, off, c);
      }
      storeUpTo(sums + j, minus, n);
      storeUpTo(sums + d + j, plus, n);
      entropy += hsum(keepFirst(h, n));
      distance += hsum(keepFirst(c, n));
    }
    sums[2 * d] = entropy;
    sums[2 * d + 1] = distance;
  });
  const auto total = [&](int64_t column) {
    double sum = 0;
    for (int64_t block = 0; block < blocks; ++block) sum += static_cast<double>(scratch[block * stride + column]);
    return sum;
  };
  const double count = static_cast<double>(rows);
  double codebook = 0;
  T* mean = a.out[3].as<T>();
  for (int64_t j = 0; j < d; ++j) {
    const double minus = total(j) / count, plus = total(d + j) / count;
    mean[2 * j] = static_cast<T>(minus);
    mean[2 * j + 1] = static_cast<T>(plus);
    codebook += entropyTerm(minus) + entropyTerm(plus);
  }
  *a.out[0].as<T>() = static_cast<T>(total(2 * d) / count);
  *a.out[1].as<T>() = static_cast<T>(codebook);
  *a.out[2].as<T>() = static_cast<T>(total(2 * d + 1) / count / static_cast<double>(d));
}

template <class T>
T cotangent(const TensorView& g) {
  return g ? *g.as<T>() : T(0);
}

// z, mean probabilities, cotangents of the three penalties (each may be absent) -> dz
template <class T>
void bitPenaltiesBackwardKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<PenaltyParams>();
  const int64_t d = a.in[0].cols(), rows = a.in[0].rows();
  const T *z = a.in[0].as<T>(), *mean = a.in[1].as<T>();
  T* gz = a.out[0].as<T>();
  const T magnitude = p.magnitude, count = static_cast<T>(rows);
  const Vec<T> logitScale = splat(static_cast<T>(p.logitScale));
  const Vec<T> sample = splat(cotangent<T>(a.in[2]) / count), codebook = splat(cotangent<T>(a.in[3]) / count);
  const Vec<T> commit = splat(2 * cotangent<T>(a.in[4]) / (count * static_cast<T>(d)));
  overRows(a, rows, kRowsPerTile, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t j = 0; j < d; j += lanesOf<T>) {
      const int n = lanesAt<T>(j, d);
      T minus[lanesOf<T>] = {}, plus[lanesOf<T>] = {};
      for (int i = 0; i < n; ++i) minus[i] = mean[2 * (j + i)], plus[i] = mean[2 * (j + i) + 1];
      const Vec<T> shared = codebook * (entropySlope(load(minus)) - entropySlope(load(plus)));
      for (int64_t r = begin; r < end; ++r) {
        const Vec<T> x = loadUpTo(z + r * d + j, n);
        const Vec<T> m = sigmoid(-logitScale * x), q = sigmoid(logitScale * x);
        const Vec<T> own = fma(sample, entropySlope(m) - entropySlope(q), shared);
        storeUpTo(gz + r * d + j, fma(logitScale * m * q, own, commit * (x - signed_(x, magnitude))), n);
      }
    }
  });
}

// ---- joint penalties: one distribution over all 2^d codes, which is a product over the bits

// At most 16 blocks of rows: each owns two tables of 2^d entries.
int64_t jointRows(int64_t rows) {
  const int64_t even = (rows + 15) / 16;
  return even < 16 ? 16 : even;
}

size_t jointPenaltiesPlan(const KernelArgs& a) {
  const size_t entry = a.in[0].dtype == DType::f64 ? sizeof(double) : sizeof(float);
  const int64_t rows = a.in[0].rows();
  return static_cast<size_t>(tilesFor(rows, jointRows(rows))) * ((size_t{2} << a.in[0].cols()) + 2) * entry;
}

// table[c] = Π_j P(bit j of c), channel 0 in the most significant bit.
template <class T>
void jointTable(const T* z, int64_t d, T logitScale, T* table) {
  table[0] = 1;
  int64_t size = 1;
  for (int64_t j = d - 1; j >= 0; --j, size *= 2) {
    const T plus = hsum(sigmoid(splat(logitScale * z[j]))) / lanesOf<T>;
    const T minus = hsum(sigmoid(splat(-logitScale * z[j]))) / lanesOf<T>;
    for (int64_t c = 0; c < size; ++c) {
      table[size + c] = table[c] * plus;
      table[c] *= minus;
    }
  }
}

// −p·ln(max(p, floor)), and its derivative, of n probabilities (n a power of two).
template <class T, class F>
void overTable(int64_t n, const F& body) {
  for (int64_t c = 0; c < n; c += lanesOf<T>) body(c, lanesAt<T>(c, n));
}
template <class V>
INFINITY_INLINE V jointTerm(V p) {
  using T = decltype(hsum(p));
  return -p * log(max(p, splat(T(kJointLogFloor))));
}
template <class V>
INFINITY_INLINE V jointSlope(V p) {
  using T = decltype(hsum(p));
  const V floor = splat(T(kJointLogFloor));
  const V one = splat(T(1)), none = splat(T(0));
  return -log(max(p, floor)) - (p >= floor ? one : none);
}

template <class T>
void jointPenaltiesKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<PenaltyParams>();
  const int64_t d = a.in[0].cols(), rows = a.in[0].rows(), codes = int64_t{1} << d;
  const int64_t perBlock = jointRows(rows), blocks = tilesFor(rows, perBlock), stride = 2 * codes + 2;
  T* scratch = static_cast<T*>(a.scratch);
  const T magnitude = p.magnitude;
  overRows(a, rows, perBlock, [&](int64_t block, int64_t begin, int64_t end) {
    T *sums = scratch + block * stride, *table = sums + codes;
    T entropy = 0, distance = 0;
    overTable<T>(codes, [&](int64_t c, int n) { storeUpTo(sums + c, splatTo<T>(0), n); });
    for (int64_t r = begin; r < end; ++r) {
      const T* z = a.in[0].as<T>() + r * d;
      jointTable(z, d, static_cast<T>(p.logitScale), table);
      Vec<T> h = {};
      overTable<T>(codes, [&](int64_t c, int n) {
        const Vec<T> probability = loadUpTo(table + c, n);
        h += keepFirst(jointTerm(probability), n);
        storeUpTo(sums + c, loadUpTo(sums + c, n) + probability, n);
      });
      entropy += hsum(h);
      for (int64_t j = 0; j < d; ++j) {
        const T off = z[j] - (z[j] > 0 ? magnitude : -magnitude);
        distance += off * off;
      }
    }
    sums[2 * codes] = entropy;
    sums[2 * codes + 1] = distance;
  });
  const auto total = [&](int64_t column) {
    double sum = 0;
    for (int64_t block = 0; block < blocks; ++block) sum += static_cast<double>(scratch[block * stride + column]);
    return sum;
  };
  const double count = static_cast<double>(rows);
  T* mean = a.out[3].as<T>();
  double codebook = 0;
  for (int64_t c = 0; c < codes; ++c) {
    const double probability = total(c) / count;
    mean[c] = static_cast<T>(probability);
    codebook += jointTerm(probability);
  }
  *a.out[0].as<T>() = static_cast<T>(total(2 * codes) / count);
  *a.out[1].as<T>() = static_cast<T>(codebook);
  *a.out[2].as<T>() = static_cast<T>(total(2 * codes + 1) / count / static_cast<double>(d));
}

template <class T>
void jointPenaltiesBackwardKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<PenaltyParams>();
  const int64_t d = a.in[0].cols(), rows = a.in[0].rows(), codes = int64_t{1} << d;
  const int64_t perBlock = jointRows(rows), stride = 2 * codes + 2;
  const T* mean = a.in[1].as<T>();
  const T magnitude = p.magnitude, logitScale = p.logitScale, count = static_cast<T>(rows);
  const Vec<T> sample = splat(cotangent<T>(a.in[2]) / count), codebook = splat(cotangent<T>(a.in[3]) / count);
  const T commit = 2 * cotangent<T>(a.in[4]) / (count * static_cast<T>(d));
  overRows(a, rows, perBlock, [&](int64_t block, int64_t begin, int64_t end) {
    T* w = static_cast<T*>(a.scratch) + block * stride;
    for (int64_t r = begin; r < end; ++r) {
      const T* z = a.in[0].as<T>() + r * d;
      T* gz = a.out[0].as<T>() + r * d;
      jointTable(z, d, logitScale, w);
      // w = probability · (dL/dprobability); then d ln P(c)/d logit_j = bit_j − P(bit_j = 1).
      overTable<T>(codes, [&](int64_t c, int n) {
        const Vec<T> probability = loadUpTo(w + c, n);
        const Vec<T> slope = fma(sample, jointSlope(probability), codebook * jointSlope(loadUpTo(mean + c, n)));
        storeUpTo(w + c, probability * slope, n);
      });
      T marginal[64];
      int64_t half = codes / 2;
      for (int64_t j = 0; j < d; ++j, half /= 2) {
        // The upper half holds the codes with bit j set; folding it away leaves the remaining channels.
        Vec<T> sum = {};
        overTable<T>(half, [&](int64_t c, int n) {
          const Vec<T> upper = loadUpTo(w + half + c, n);
          sum += keepFirst(upper, n);
          storeUpTo(w + c, loadUpTo(w + c, n) + upper, n);
        });
        marginal[j] = hsum(sum);
      }
      const T all = w[0];
      for (int64_t j = 0; j < d; ++j) {
        const T plus = hsum(sigmoid(splat(logitScale * z[j]))) / lanesOf<T>;
        gz[j] = logitScale * (marginal[j] - plus * all) + commit * (z[j] - (z[j] > 0 ? magnitude : -magnitude));
      }
    }
  });
}

}  // namespace

INFINITY_KERNEL(l2_normalize, l2NormalizeKernel<float>, l2NormalizeKernel<double>, nullptr);
INFINITY_KERNEL(l2_normalize_backward, l2NormalizeBackwardKernel<float>, l2NormalizeBackwardKernel<double>, nullptr);
INFINITY_KERNEL(sign_quantize, signQuantizeKernel<float>, signQuantizeKernel<double>, nullptr);
INFINITY_KERNEL(bit_penalties, bitPenaltiesKernel<float>, bitPenaltiesKernel<double>, bitPenaltiesPlan);
INFINITY_KERNEL(bit_penalties_backward, bitPenaltiesBackwardKernel<float>, bitPenaltiesBackwardKernel<double>, nullptr);
INFINITY_KERNEL(joint_penalties, jointPenaltiesKernel<float>, jointPenaltiesKernel<double>, jointPenaltiesPlan);
INFINITY_KERNEL(joint_penalties_backward, jointPenaltiesBackwardKernel<float>, jointPenaltiesBackwardKernel<double>,
                jointPenaltiesPlan);

}  // namespace infinity::INFINITY_ISA
