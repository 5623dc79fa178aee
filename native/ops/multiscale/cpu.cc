#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/bits/draws.h"
#include "ops/bits/lanes.h"
#include "ops/multiscale/multiscale.h"

namespace infinity::INFINITY_ISA {
namespace {

constexpr int64_t kStripesPerThread = 4;

void areaWindows(int64_t from, int64_t to, Window* windows) {
  for (int64_t i = 0; i < to; ++i) windows[i] = areaWindow(from, to, i);
}

template <class T>
void linearTaps(int64_t from, int64_t to, Tap<T>* taps) {
  const T ratio = static_cast<T>(from) / static_cast<T>(to);
  for (int64_t i = 0; i < to; ++i) taps[i] = linearTap(ratio, i, from);
}

// The vector of one pixel in a buffer that holds lanesOf<T> channels a pixel.
template <class T>
INFINITY_INLINE Vec<T> pixel(const T* plane, int64_t i) {
  return load(plane + i * lanesOf<T>);
}
template <class T>
INFINITY_INLINE void setPixel(T* plane, int64_t i, Vec<T> v) {
  store(plane + i * lanesOf<T>, v);
}
template <class V, class T>
INFINITY_INLINE V mix(V lo, V hi, T weight) {
  return fma(splat(weight), hi, splat(1 - weight) * lo);
}

template <class T>
struct Multiscale {
  const KernelArgs& a;
  const MultiscaleParams& p;
  int64_t images, H, W, d, step, rowBytes, scales, tokens = 0;  // tokens: latent positions of all scales
  const int32_t* grids;
  T magnitude;
  // A worker's channels have bytes of packed labels to themselves.
  static constexpr int64_t kGroup = lanesOf<T> < 8 ? 8 : lanesOf<T>;
  int64_t groups;
  // In scratch: per scale the taps up to H rows and W columns, the taps down to the next grid, and the windows of rows
  // and columns; then a buffer a stripe.
  Tap<T>* taps;
  int64_t tapsPerScale, windowsPerScale;
  Window* windows;
  T* buffers;
  int64_t bufferSize;

  explicit Multiscale(const KernelArgs& args)
      : a(args),
        p(args.paramsAs<MultiscaleParams>()),
        images(a.in[0].dims[0]),
        H(a.in[0].dims[1]),
        W(a.in[0].dims[2]),
        d(a.in[0].dims[3]),
        step(p.patchify ? 4 : 1),
        rowBytes(packedBytes(d * step)),
        scales(a.in[1].dims[0]),
        grids(a.in[1].as<int32_t>()),
        magnitude(magnitudeOf<T>(p, d)),
        groups((d + kGroup - 1) / kGroup),
        taps(static_cast<Tap<T>*>(a.scratch)),
        tapsPerScale(2 * (H + W)),
        windowsPerScale(H + W),
        windows(reinterpret_cast<Window*>(static_cast<char*>(a.scratch) + tapBytes())),
        buffers(reinterpret_cast<T*>(static_cast<char*>(a.scratch) + tableBytes())),
        bufferSize(4 * H * W * lanesOf<T>) {}

  size_t tapBytes() const { return static_cast<size_t>(scales * tapsPerScale) * sizeof(Tap<T>); }
  size_t tableBytes() const {
    return (tapBytes() + static_cast<size_t>(scales * windowsPerScale) * sizeof(Window) + 63) / 64 * 64;
  }
  int64_t stripes() const {
    const int64_t most = a.pool->threads() * kStripesPerThread;
    return images * groups < most ? images * groups : most;
  }
  size_t scratchBytes() const { return tableBytes() + static_cast<size_t>(stripes() * bufferSize) * sizeof(T); }

  int64_t rowsOf(int64_t k) const { return grids[2 * k]; }
  int64_t colsOf(int64_t k) const { return grids[2 * k + 1]; }

  // The schedule is data: it has to fit the features and the outputs before anything is written.
  bool valid() {
    if (a.in[2] && !a.in[3] && !a.in[4]) return false;  // noise without a source of draws
    for (int64_t k = 0; k < scales; ++k) {
      const int64_t h = rowsOf(k), w = colsOf(k);
      if (h < 1 || w < 1 || h > H || w > W || (p.patchify && (h % 2 || w % 2))) return false;
      tokens += h * w;
    }
    const int64_t most = images * tokens * d;
    const int64_t inputs = most - images * rowsOf(0) * colsOf(0) * d, labels = images * tokens / step * rowBytes;
    return a.out[0].size() == labels && (scales == 1 || a.out[1].size() == inputs) &&
           (!p.trace || (a.out[3].size() == most && a.out[4].size() == most));
  }

  void run() {
    for (int64_t k = 0; k < scales; ++k) {
      Tap<T>* t = taps + k * tapsPerScale;
      linearTaps(rowsOf(k), H, t);
      linearTaps(colsOf(k), W, t + H);
      areaWindows(H, rowsOf(k), windows + k * windowsPerScale);
      areaWindows(W, colsOf(k), windows + k * windowsPerScale + H);
      if (k + 1 == scales) break;
      linearTaps(H, rowsOf(k + 1), t + H + W);
      linearTaps(W, colsOf(k + 1), t + 2 * H + W);
    }
    __builtin_memset(a.out[0].data, 0, a.out[0].bytes());
    // A stripe takes every stripes-th plane: planes are independent, so the split changes nothing but the balance.
    const int64_t count = stripes();
    a.pool->parallelFor(count, [&](int64_t stripe) {
      for (int64_t plane = stripe; plane < images * groups; plane += count) {
        const int64_t first = plane % groups * kGroup, end = first + kGroup < d ? first + kGroup : d;
        for (int64_t c0 = first; c0 < end; c0 += lanesOf<T>) {
          const int n = end - c0 < lanesOf<T> ? static_cast<int>(end - c0) : lanesOf<T>;
          planeGroup(plane / groups, c0, n, buffers + stripe * bufferSize);
        }
      }
    });
  }

  // All scales of channels [c0, c0 + n) of image b.
  void planeGroup(int64_t b, int64_t c0, int n, T* buffer) {
    const int64_t size = H * W * lanesOf<T>;
    T *features = buffer, *sum = buffer + size, *codes = sum + size, *wide = codes + size;
    const T* source = a.in[0].as<T>() + b * H * W * d + c0;
    for (int64_t i = 0; i < H * W; ++i) {
      setPixel(features, i, loadUpTo(source + i * d, n));
      setPixel(sum, i, Vec<T>{});
    }
    // Positions before this scale's in the outputs.
    int64_t at = b * tokens, inputsAt = b * (tokens - rowsOf(0) * colsOf(0));
    for (int64_t k = 0; k < scales; ++k) {
      const int64_t h = rowsOf(k), w = colsOf(k);
      quantizeScale(b, k, c0, n, at, features, sum, codes);
      accumulate(k, codes, wide, sum);
      at += h * w;
      if (k + 1 == scales) break;
      nextInput(k, c0, n, inputsAt, sum);
      inputsAt += rowsOf(k + 1) * colsOf(k + 1);
    }
    T* total = a.out[2].as<T>() + b * H * W * d + c0;
    for (int64_t i = 0; i < H * W; ++i) storeUpTo(total + i * d, pixel(sum, i), n);
  }

  // Mean of features − sum over a window. Inlined, its total would live in memory.
  __attribute__((noinline)) Vec<T> pooledResidual(const T* features, const T* sum, Window rows, Window cols) {
    Vec<T> total = {};
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      for (int64_t j = cols.begin; j < cols.end; ++j) total += pixel(features, i * W + j) - pixel(sum, i * W + j);
    }
    const int64_t count = static_cast<int64_t>(rows.end - rows.begin) * (cols.end - cols.begin);
    return count == 1 ? total : total / splat(static_cast<T>(count));
  }

  void quantizeScale(int64_t b, int64_t k, int64_t c0, int n, int64_t at, const T* features, const T* sum, T* codes) {
    const int64_t h = rowsOf(k), w = colsOf(k);
    const Window *rows = windows + k * windowsPerScale, *cols = rows + H;
    const TokenLayout layout{w, p.patchify != 0};
    uint8_t* labels = a.out[0].as<uint8_t>() + at / step * rowBytes;
    const T strength = a.in[2] ? a.in[2].as<T>()[k] : T(0);
    const T* recorded = a.in[3] ? a.in[3].as<T>() + at * d : nullptr;
    const bool noisy = strength > 0 && (p.requant || p.trace);
    DrawRun drawn = {};
    if (noisy && !recorded) drawn = drawRun(a.in[4], b, static_cast<uint32_t>(k), p.stream);
    for (int64_t y = 0; y < h; ++y) {
      for (int64_t x = 0; x < w; ++x) {
        const int64_t token = y * w + x, element = token * d + c0;
        const Vec<T> residual = pooledResidual(features, sum, rows[y], cols[x]);
        setPacked<T>(labels + layout.token(y, x) * rowBytes, layout.place(y, x) + step * c0, step,
                     positiveLanes(residual), n);
        const Vec<T> one = splat(T(1)), clean = signed_(residual, T(1));
        Vec<T> inverted = clean;
        if (noisy) {
          T each[lanesOf<T>] = {};
          if (!recorded) drawn.fill(static_cast<uint32_t>(element), n, each);
          const Vec<T> u = recorded ? loadUpTo(recorded + element, n) : load(each);
          inverted *= u < splat(strength) ? -one : one;
        }
        setPixel(codes, token, (p.requant ? inverted : clean) * splat(magnitude));
        if (p.trace) {
          storeUpTo(a.out[3].as<T>() + at * d + element, residual, n);
          storePositive(a.out[4].as<uint8_t>() + at * d + element, inverted, n);
        }
      }
    }
  }

  // sum += codes at H×W, columns first.
  void accumulate(int64_t k, const T* codes, T* wide, T* sum) {
    const int64_t h = rowsOf(k), w = colsOf(k);
    const Tap<T>*rows = taps + k * tapsPerScale, *cols = rows + H;
    if (w < W) {
      for (int64_t y = 0; y < h; ++y) {
        for (int64_t x = 0; x < W; ++x) {
          const Vec<T> lo = pixel(codes, y * w + cols[x].lo), hi = pixel(codes, y * w + cols[x].hi);
          setPixel(wide, y * W + x, mix(lo, hi, cols[x].weight));
        }
      }
      codes = wide;
    }
    for (int64_t y = 0; y < H; ++y) {
      const int64_t lo = h < H ? rows[y].lo * W : y * W, hi = h < H ? rows[y].hi * W : y * W;
      const T weight = h < H ? rows[y].weight : T(0);
      for (int64_t x = 0; x < W; ++x) {
        const Vec<T> code = mix(pixel(codes, lo + x), pixel(codes, hi + x), weight);
        setPixel(sum, y * W + x, pixel(sum, y * W + x) + code);
      }
    }
  }

  // The running sum on the grid of scale k + 1, without antialiasing: what the transformer sees.
  void nextInput(int64_t k, int64_t c0, int n, int64_t inputsAt, const T* sum) {
    const int64_t h = rowsOf(k + 1), w = colsOf(k + 1);
    const Tap<T>*rows = taps + k * tapsPerScale + H + W, *cols = rows + H;
    const TokenLayout layout{w, p.patchify != 0};
    T* inputs = a.out[1].as<T>() + inputsAt * d;
    for (int64_t y = 0; y < h; ++y) {
      const int64_t lo = rows[y].lo * W, hi = rows[y].hi * W;
      for (int64_t x = 0; x < w; ++x) {
        const Tap<T>& c = cols[x];
        const Vec<T> top = mix(pixel(sum, lo + c.lo), pixel(sum, lo + c.hi), c.weight);
        const Vec<T> bottom = mix(pixel(sum, hi + c.lo), pixel(sum, hi + c.hi), c.weight);
        const Vec<T> value = mix(top, bottom, rows[y].weight);
        T* to = inputs + layout.base(y, x, d) + step * c0;
        if (!p.patchify) {
          storeUpTo(to, value, n);
        } else {
          T each[lanesOf<T>];
          store(each, value);
          for (int i = 0; i < n; ++i) to[4 * i] = each[i];
        }
      }
    }
  }
};

size_t multiscalePlan(const KernelArgs& a) {
  return a.in[0].dtype == DType::f64 ? Multiscale<double>(a).scratchBytes() : Multiscale<float>(a).scratchBytes();
}

template <class T>
void multiscaleKernel(const KernelArgs& a) {
  Multiscale<T> all(a);
  if (all.valid()) {
    all.run();
  } else {
    a.fail("INVALID_ARGUMENT", "A schedule does not fit the features or the outputs.");
  }
}

}  // namespace

INFINITY_KERNEL(multiscale_residual, multiscaleKernel<float>, multiscaleKernel<double>, multiscalePlan);

}  // namespace infinity::INFINITY_ISA
