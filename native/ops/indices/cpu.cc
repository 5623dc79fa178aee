#include <atomic>

#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/bits/bits.h"
#include "ops/bits/draws.h"
#include "ops/indices/indices.h"

namespace infinity::INFINITY_ISA {
namespace {

// Tokens a partial sum of the loss: the order of the sum depends on the number of tokens alone.
constexpr int64_t kLossRows = 8;
// Exponentials that are added up in lanes before they join a sum in double.
constexpr int64_t kSumRun = 1024;

template <class T>
T largest(const T* x, int64_t n) {
  constexpr int lanes = lanesOf<T>;
  T most = x[0];
  int64_t i = 0;
  if (n >= lanes) {
    Vec<T> top = load(x);
    for (i = lanes; i + lanes <= n; i += lanes) top = max(top, load(x + i));
    most = hmax(top);
  }
  for (; i < n; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

// The first of the largest; n − 1 where none equals `most`, which is then not a number.
template <class T>
int64_t firstOf(const T* x, int64_t n, T most) {
  for (int64_t i = 0; i < n; ++i)
    if (x[i] == most) return i;
  return n - 1;
}

// Σ exp(x − shift); `keep` takes the terms where it is not null.
template <class T>
double sumExp(const T* x, int64_t n, T shift, T* keep) {
  constexpr int lanes = lanesOf<T>;
  const Vec<T> by = splat(shift);
  double total = 0;
  for (int64_t first = 0; first < n; first += kSumRun) {
    const int64_t end = n < first + kSumRun ? n : first + kSumRun;
    Vec<T> sum = {};
    for (int64_t i = first; i < end; i += lanes) {
      const int m = end - i < lanes ? static_cast<int>(end - i) : lanes;
      const Vec<T> e = keepFirst(exp(loadUpTo(x + i, m) - by), m);
      if (keep) storeUpTo(keep + i, e, m);
      sum += e;
    }
    total += hsum(sum);
  }
  return total;
}

template <class T>
T meanOf(const T* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  return static_cast<T>(sum / static_cast<double>(n));
}

// in: logits [.., V], packed bits [.., ⌈D/8⌉], weights [n] or null; out: loss [], log Σ exp of each token, its loss,
// its right bits.
template <class T>
void indexLossKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<IndexLossParams>();
  const int64_t V = a.in[0].cols(), rows = a.in[0].rows(), count = a.in[2] ? a.in[2].size() : 1;
  const int d = bitsOfCodes(V);
  const T *logits = a.in[0].as<T>(), *weight = a.in[2].as<T>();
  T *logSum = a.out[1].as<T>(), *perToken = a.out[2].as<T>(), *correct = a.out[3].as<T>();
  const T perRepeat = static_cast<T>(count) / static_cast<T>(rows), smoothing = p.smoothing;
  double* partial = static_cast<double*>(a.scratch);
  a.pool->parallelFor(tilesFor(rows, kLossRows), [&](int64_t tile) {
    const int64_t begin = tile * kLossRows, end = rows < begin + kLossRows ? rows : begin + kLossRows;
    double sum = 0;
    for (int64_t r = begin; r < end; ++r) {
      const T* x = logits + r * V;
      const T top = largest(x, V);
      const uint32_t label = indexOfPacked(a.in[1].as<uint8_t>() + r * a.in[1].cols(), d);
      const auto chosen = static_cast<uint32_t>(firstOf(x, V, top));
      const double rest = static_cast<double>(log(sumExp<T>(x, V, top, nullptr)));
      logSum[r] = static_cast<T>(top + rest);
      // The label's logit is subtracted from the largest first: both may be far larger than the loss.
      double loss = rest + (static_cast<double>(top) - x[label]);
      if (smoothing > 0) loss += static_cast<double>(smoothing) * (static_cast<double>(x[label]) - meanOf(x, V));
      perToken[r] = static_cast<T>(loss * p.tokenFactor);
      correct[r] = static_cast<T>(d - __builtin_popcount(label ^ chosen));
      sum += static_cast<double>(perToken[r]) * static_cast<double>((weight ? weight[r % count] : 1) * perRepeat);
    }
    partial[tile] = sum;
  });
  double sum = 0;
  for (int64_t i = 0; i < tilesFor(rows, kLossRows); ++i) sum += partial[i];
  *a.out[0].as<T>() = static_cast<T>(sum);
}
size_t indexLossPlan(const KernelArgs& a) {
  return static_cast<size_t>(tilesFor(a.in[0].rows(), kLossRows)) * sizeof(double);
}

// in: cotangent [], logits, log Σ exp, packed bits, weights; out: the gradient of the logits.
template <class T>
void indexLossBackwardKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<IndexLossParams>();
  const int64_t V = a.in[1].cols(), rows = a.in[1].rows(), count = a.in[4] ? a.in[4].size() : 1;
  const int d = bitsOfCodes(V);
  const T *logits = a.in[1].as<T>(), *logSum = a.in[2].as<T>(), *weight = a.in[4].as<T>();
  T* grad = a.out[0].as<T>();
  const T each = *a.in[0].as<T>() * static_cast<T>(p.tokenFactor) * static_cast<T>(count) / static_cast<T>(rows);
  const T smoothing = p.smoothing, even = smoothing / static_cast<T>(V);
  constexpr int lanes = lanesOf<T>;
  a.pool->parallelFor(rows, [&](int64_t r) {
    const T w = each * (weight ? weight[r % count] : 1);
    const Vec<T> shift = splat(logSum[r]), share = splat(even), factor = splat(w);
    const T* x = logits + r * V;
    T* g = grad + r * V;
    for (int64_t i = 0; i < V; i += lanes) {
      const int n = V - i < lanes ? static_cast<int>(V - i) : lanes;
      storeUpTo(g + i, factor * (exp(loadUpTo(x + i, n) - shift) - share), n);
    }
    g[indexOfPacked(a.in[3].as<uint8_t>() + r * a.in[3].cols(), d)] -= w * (1 - smoothing);
  });
}

// ---- drawing

template <class T>
struct OrderOf;
template <>
struct OrderOf<float> {
  using type = uint32_t;
};
template <>
struct OrderOf<double> {
  using type = uint64_t;
};

// One token: which codes may be drawn, and the draw.
template <class T>
struct Choice {
  using Order = typename OrderOf<T>::type;
  T* logit;  // guided and divided by τ
  T* share;  // exp(logit − largest)
  int64_t V;

  Order orderAt(int64_t i) const { return orderOf(bitcast<Order>(logit[i])); }

  // The order of the k-th largest logit; equal ones are all kept.
  Order leastOfTop(uint32_t k, Order low, Order high) const {
    if (k == 0 || k >= V) return low;
    // The first order above which fewer than k lie.
    return firstOrder(low, high, [&](Order least) {
      uint32_t above = 0;
      for (int64_t i = 0; i < V; ++i) above += orderAt(i) > least;
      return above < k;
    });
  }

  double massBetween(Order low, Order high) const {
    double mass = 0;
    for (int64_t i = 0; i < V; ++i) mass += orderAt(i) >= low && orderAt(i) <= high ? static_cast<double>(share[i]) : 0;
    return mass;
  }
};

template <class T>
void indexSampleKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<IndexSampleParams>();
  const T *cond = a.in[0].as<T>(), *uncond = a.in[1].as<T>(), *draws = a.in[2].as<T>();
  uint8_t* bits = a.out[0].as<uint8_t>();
  T* probability = a.out[1].as<T>();
  const int64_t V = a.in[0].cols(), images = a.out[0].dims[0], tokens = a.out[0].rows() / images;
  const int d = static_cast<int>(a.out[0].cols());
  const auto& by = *a.in[4].as<SampleChoice>();
  const T guidance = by.guidance, rest = 1 - guidance, inverseTau = by.inverseTau;
  constexpr int lanes = lanesOf<T>;
  std::atomic<bool> invalid{false};
  const size_t bytes = static_cast<size_t>(2 * V) * sizeof(T);
  parallelForWithMemory(*a.pool, images * tokens, a.scratch, bytes, [&](int64_t r, void* memory) {
    using Order = typename Choice<T>::Order;
    Choice<T> choice = {static_cast<T*>(memory), static_cast<T*>(memory) + V, V};
    for (int64_t i = 0; i < V; i += lanes) {
      const int n = V - i < lanes ? static_cast<int>(V - i) : lanes;
      Vec<T> x = loadUpTo(cond + r * V + i, n);
      if (uncond) x = splat(guidance) * x + splat(rest) * loadUpTo(uncond + r * V + i, n);
      // The sum turns −0 into 0, which has another order.
      storeUpTo(choice.logit + i, x * splat(inverseTau) + splatTo<T>(0), n);
    }
    const T top = largest(choice.logit, V);
    const double total = sumExp(choice.logit, V, top, choice.share);
    if (!(total >= 1)) invalid.store(true, std::memory_order_relaxed);
    int64_t drawn = firstOf(choice.logit, V, top);
    T certainty = 1;
    if (p.topK != 1 && total >= 1) {
      T bottom = top;
      for (int64_t i = 0; i < V; ++i) bottom = choice.logit[i] < bottom ? choice.logit[i] : bottom;
      const Order high = orderOf(bitcast<Order>(top));
      Order least = choice.leastOfTop(p.topK, orderOf(bitcast<Order>(bottom)), high);
      double kept = choice.massBetween(least, high);
      if (by.threshold >= 0) {
        // The first order up to which more than the threshold lies; the most likely code always stays.
        const Order from = least;
        const double most = by.threshold * kept;
        least = firstOrder(from, high, [&](Order upTo) { return choice.massBetween(from, upTo) > most; });
        kept = choice.massBetween(least, high);
      }
      T u = draws ? draws[r] : 0;
      if (!draws) u = drawRun(a.in[3], r / tokens, p.scale, p.stream).at(static_cast<uint32_t>(r % tokens));
      const double target = static_cast<double>(u) * kept;
      double before = 0;
      for (int64_t i = 0; i < V; ++i) {
        if (choice.orderAt(i) < least) continue;
        before += static_cast<double>(choice.share[i]);
        // Rounding may leave the sum below the last target: then it is the last code.
        drawn = i;
        if (before > target) break;
      }
      certainty = static_cast<T>(static_cast<double>(choice.share[drawn]) / kept);
    }
    bitsOfIndex(static_cast<uint32_t>(drawn), d, bits + r * d);
    probability[r] = certainty;
  });
  if (invalid.load(std::memory_order_relaxed)) a.fail("NUMERICAL", "The logits are not numbers.");
}
size_t indexSamplePlan(const KernelArgs& a) {
  const size_t element = a.in[0].dtype == DType::f64 ? sizeof(double) : sizeof(float);
  return static_cast<size_t>(a.pool->threads()) * static_cast<size_t>(2 * a.in[0].cols()) * element;
}

}  // namespace

INFINITY_KERNEL(index_loss, indexLossKernel<float>, indexLossKernel<double>, indexLossPlan);
INFINITY_KERNEL(index_loss_backward, indexLossBackwardKernel<float>, indexLossBackwardKernel<double>, nullptr);
INFINITY_KERNEL(index_sample, indexSampleKernel<float>, indexSampleKernel<double>, indexSamplePlan);

}  // namespace infinity::INFINITY_ISA
