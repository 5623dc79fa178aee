#include "ops/multiscale/multiscale.h"

#include "cuda/launch.h"
#include "cuda/reduce.cuh"
#include "ops/bits/bit.cuh"
#include "ops/bits/draws.cuh"

namespace infinity::cuda {
namespace {

int64_t positionsOf(const KernelArgs& a) {
  return a.out[0].dims[1] * (a.paramsAs<MultiscaleParams>().patchify ? 4 : 1);
}

struct Multiscale {
  Numbers features, inputs, sum, residual;
  const int32_t* grids;
  const float *strengths, *draws;
  const uint32_t* keys;
  // Labels of a strip at a position, channel c in bit c: [images, strips, tokens], patchified positions in the order of
  // their places in a token.
  uint8_t* marks;
  uint8_t* inverted;
  int64_t images, tokens;  // latent positions of all scales
  int H, W, d, scales;
  float magnitude;
  MultiscaleParams p;

  Multiscale(const KernelArgs& a, uint8_t* marks)
      : features(a.in[0]),
        inputs(a.out[1]),
        sum(a.out[2]),
        residual(a.out[3]),
        grids(a.in[1].as<int32_t>()),
        strengths(a.in[2].as<float>()),
        draws(a.in[3].as<float>()),
        keys(a.in[4].as<uint32_t>()),
        marks(marks),
        inverted(a.out[4].as<uint8_t>()),
        images(a.in[0].dims[0]),
        H(static_cast<int>(a.in[0].dims[1])),
        W(static_cast<int>(a.in[0].dims[2])),
        d(static_cast<int>(a.in[0].dims[3])),
        scales(static_cast<int>(a.in[1].dims[0])),
        p(a.paramsAs<MultiscaleParams>()) {
    magnitude = magnitudeOf<float>(p, d);
    tokens = positionsOf(a);
  }
};

// A strip: C neighbouring channels of an image, the channels of a position side by side. A block carries one through
// all scales; `memory` holds stripBytes.
size_t stripBytes(int H, int W, int channels) {
  const size_t positions = static_cast<size_t>(H) * W;
  return 2 * positions * channels * sizeof(float) + 2 * static_cast<size_t>(H + W) * sizeof(Tap<float>) + positions;
}

template <int C, bool Spills>
struct Strip {
  const Multiscale& m;
  unsigned char* spill;  // null in shared memory, whose address the compiler knows
  int64_t image;
  int first, count;  // channels

  __device__ Strip(const Multiscale& m, int64_t strip, unsigned char* spill)
      : m(m), spill(spill), image(strip / strips(m)), first(static_cast<int>(strip - image * strips(m)) * C) {
    count = m.d - first < C ? m.d - first : C;
  }
  static __host__ __device__ int64_t strips(const Multiscale& m) { return (m.d + C - 1) / C; }

  __device__ __forceinline__ float* features() const {
    return Spills ? reinterpret_cast<float*>(spill) : dynamicShared<float>();
  }
  __device__ __forceinline__ float* sum() const { return features() + m.H * m.W * C; }
  // Rows then columns: from this scale to H×W, and from there to the next.
  __device__ __forceinline__ Tap<float>* up() const { return reinterpret_cast<Tap<float>*>(sum() + m.H * m.W * C); }
  __device__ __forceinline__ Tap<float>* down() const { return up() + m.H + m.W; }
  // Of this scale: the code of channel c is bit c, its label bit 4 + c.
  __device__ __forceinline__ uint8_t* codes() const { return reinterpret_cast<uint8_t*>(down() + m.H + m.W); }

  __device__ __forceinline__ int rowsOf(int k) const { return __ldg(m.grids + 2 * k); }
  __device__ __forceinline__ int colsOf(int k) const { return __ldg(m.grids + 2 * k + 1); }
  static __device__ __forceinline__ Pack<float, C> pixel(const float* plane, int i) {
    return loadPack<C>(plane + i * C);
  }
  static __device__ __forceinline__ float mix(float lo, float hi, float weight) {
    return fmaf(weight, hi, (1.0f - weight) * lo);
  }

  __device__ void run() {
    const int positions = m.H * m.W, threads = static_cast<int>(blockDim.x);
    const int64_t source = image * positions * m.d + first;
    for (int i = static_cast<int>(threadIdx.x); i < positions; i += threads) {
      Pack<float, C> x;
      m.features.load(source + static_cast<int64_t>(i) * m.d, count, x.v);
      storePack(features() + i * C, x);
      storePack(sum() + i * C, Pack<float, C>{});
    }
    __syncthreads();
    int64_t at = image * m.tokens, inputAt = image * (m.tokens - rowsOf(0) * colsOf(0));
    for (int k = 0; k < m.scales; ++k) {
      findTaps(k);
      quantize(k, at);
      __syncthreads();
      leaveMarks(rowsOf(k), colsOf(k), at);
      accumulate(colsOf(k));
      __syncthreads();
      at += rowsOf(k) * colsOf(k);
      if (k + 1 == m.scales) break;
      nextInput(rowsOf(k + 1), colsOf(k + 1), inputAt);
      inputAt += rowsOf(k + 1) * colsOf(k + 1);
      __syncthreads();
    }
    for (int i = static_cast<int>(threadIdx.x); i < positions; i += threads)
      m.sum.store(source + static_cast<int64_t>(i) * m.d, count, pixel(sum(), i).v);
  }

  __device__ __forceinline__ void findTaps(int k) {
    const int last = k + 1 < m.scales ? k + 1 : k;
    for (int i = static_cast<int>(threadIdx.x); i < m.H + m.W; i += static_cast<int>(blockDim.x)) {
      const bool row = i < m.H;
      const int extent = row ? m.H : m.W, coarse = row ? rowsOf(k) : colsOf(k);
      const int next = row ? rowsOf(last) : colsOf(last), position = row ? i : i - m.H;
      up()[i] = linearTap(static_cast<float>(coarse) / extent, position, coarse);
      if (position < next) down()[i] = linearTap(static_cast<float>(extent) / next, position, extent);
    }
  }

  // Small windows are summed by a thread, larger ones by four lanes or a warp: by the grid alone.
  __device__ __forceinline__ void quantize(int k, int64_t at) {
    const int h = rowsOf(k), w = colsOf(k), area = m.H * m.W / (h * w);
    if (area <= 4)
      quantizeBy<1>(k, h, w, at);
    else if (area <= 16)
      quantizeBy<4>(k, h, w, at);
    else
      quantizeBy<kWarp>(k, h, w, at);
  }

  // Means of features − sum over the windows of a scale, their labels and codes.
  template <int Lanes>
  __device__ __forceinline__ void quantizeBy(int k, int h, int w, int64_t at) {
    const int lane = static_cast<int>(threadIdx.x) % Lanes, abreast = static_cast<int>(blockDim.x) / Lanes;
#pragma unroll 1
    for (int start = 0; start < h * w; start += abreast) {
      const int token = start + static_cast<int>(threadIdx.x) / Lanes;
      const bool mine = token < h * w;
      const int y = mine ? token / w : 0, x = mine ? token - y * w : 0;
      const Window rows = areaWindow(m.H, h, y), cols = areaWindow(m.W, w, x);
      const int width = cols.end - cols.begin, cells = (rows.end - rows.begin) * width;
      const int lower = Lanes / width, right = Lanes - lower * width;
      int i = lane / width, j = lane - i * width;
      float total[C] = {};
#pragma unroll 2
      for (int cell = lane; mine && cell < cells; cell += Lanes) {
        const int position = (rows.begin + i) * m.W + cols.begin + j;
        const Pack<float, C> f = pixel(features(), position), s = pixel(sum(), position);
#pragma unroll
        for (int c = 0; c < C; ++c) total[c] += f.v[c] - s.v[c];
        i += lower;
        j += right;
        if (j >= width) j -= width, ++i;
      }
#pragma unroll
      for (int c = 0; c < C; ++c) {
        total[c] = warpReduce<Lanes>(total[c]);
        if (cells > 1) total[c] /= static_cast<float>(cells);
      }
      if (mine && lane == 0) decide(k, at, token, total);
    }
  }

  // Zeros of either sign and NaN give bit 0, as in the official quantiser.
  __device__ __forceinline__ void decide(int k, int64_t at, int token, const float (&residual)[C]) {
    unsigned clean = 0;
#pragma unroll
    for (int c = 0; c < C; ++c)
      if (residual[c] > 0) clean |= 1u << c;
    const int64_t begin = at * m.d + first;
    const float strength = m.strengths ? m.strengths[k] : 0.0f;
    unsigned noisy = clean;
    if (strength > 0 && (m.p.requant || m.p.trace)) {
      const int64_t element = static_cast<int64_t>(token) * m.d;
      float u[C];
      if (m.draws) {
        loadUpTo(m.draws + begin + element, count, u);
      } else {
        const Draws draws(m.keys, image, static_cast<uint32_t>(k), m.p.stream);
        draws.run(static_cast<uint32_t>(element) + static_cast<uint32_t>(first), u);
      }
#pragma unroll
      for (int c = 0; c < C; ++c) noisy ^= static_cast<unsigned>(u[c] < strength) << c;
    }
    codes()[token] = static_cast<uint8_t>((m.p.requant ? noisy : clean) | clean << 4);
    if (m.p.trace) {
      const int64_t to = begin + static_cast<int64_t>(token) * m.d;
      m.residual.store(to, count, residual);
      uint8_t bit[C];
#pragma unroll
      for (int c = 0; c < C; ++c) bit[c] = noisy >> c & 1;
      storeUpTo(m.inverted + to, count, bit);
    }
  }

  __device__ __forceinline__ void leaveMarks(int h, int w, int64_t at) {
    const TokenLayout layout{w, m.p.patchify != 0};
    uint8_t* marks = m.marks + (image * (strips(m) - 1) + first / C) * m.tokens + at;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < h * w; i += static_cast<int>(blockDim.x)) {
      const int y = i / w;
      marks[layout.base(y, i - y * w, 1)] = codes()[i] >> 4;
    }
  }

  // sum += codes at H×W, columns first.
  __device__ __forceinline__ void accumulate(int w) {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < m.H * m.W; i += static_cast<int>(blockDim.x)) {
      const int y = i / m.W;
      const Tap<float> row = up()[y], col = up()[m.H + i - y * m.W];
      const unsigned topLo = codes()[row.lo * w + col.lo], topHi = codes()[row.lo * w + col.hi];
      const unsigned bottomLo = codes()[row.hi * w + col.lo], bottomHi = codes()[row.hi * w + col.hi];
      Pack<float, C> s = pixel(sum(), i);
#pragma unroll
      for (int c = 0; c < C; ++c) {
        const auto code = [&](unsigned mask) { return mask >> c & 1 ? m.magnitude : -m.magnitude; };
        const float top = mix(code(topLo), code(topHi), col.weight);
        s.v[c] += mix(top, mix(code(bottomLo), code(bottomHi), col.weight), row.weight);
      }
      storePack(sum() + i * C, s);
    }
  }

  // The running sum on the grid of the next scale, without antialiasing: what the transformer sees.
  __device__ __forceinline__ void nextInput(int h, int w, int64_t inputAt) {
    const TokenLayout layout{w, m.p.patchify != 0};
    const int64_t step = layout.step();
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < h * w; i += static_cast<int>(blockDim.x)) {
      const int y = i / w, x = i - y * w;
      const Tap<float> row = down()[y], col = down()[m.H + x];
      const Pack<float, C> topLo = pixel(sum(), row.lo * m.W + col.lo), topHi = pixel(sum(), row.lo * m.W + col.hi);
      const Pack<float, C> bottomLo = pixel(sum(), row.hi * m.W + col.lo);
      const Pack<float, C> bottomHi = pixel(sum(), row.hi * m.W + col.hi);
      float value[C];
#pragma unroll
      for (int c = 0; c < C; ++c)
        value[c] =
            mix(mix(topLo.v[c], topHi.v[c], col.weight), mix(bottomLo.v[c], bottomHi.v[c], col.weight), row.weight);
      const int64_t to = inputAt * m.d + layout.base(y, x, m.d) + step * first;
      if (step == 1) {
        m.inputs.store(to, count, value);
      } else {
#pragma unroll
        for (int c = 0; c < C; ++c) {
          const float one[1] = {value[c]};
          if (c < count) m.inputs.store(to + c * step, 1, one);
        }
      }
    }
  }
};

constexpr int kMostThreads = 512;
constexpr int kPackThreads = 256;

// A strip that is too large for shared memory spills to stripBytes of scratch, `bytes` apart for every block.
template <int C, bool Spills>
__global__ void __launch_bounds__(kMostThreads, 2) multiscaleKernel(Multiscale m, unsigned char* spill, size_t bytes) {
  using S = Strip<C, Spills>;
  for (int64_t strip = blockIdx.x; strip < m.images * S::strips(m); strip += gridDim.x) {
    S(m, strip, spill + blockIdx.x * bytes).run();
    __syncthreads();
  }
}

// A thread for each byte of packed labels: blocks of neighbouring strips would meet in it.
__global__ void __launch_bounds__(kPackThreads)
    packLabelsKernel(Multiscale m, uint8_t* labels, int channels, int64_t strips) {
  const int step = m.p.patchify ? 4 : 1, bits = m.d * step;
  const int64_t bytes = packedBytes(bits), n = m.images * (m.tokens / step) * bytes;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kPackThreads + threadIdx.x; i < n;
       i += gridDim.x * kPackThreads) {
    const int64_t token = i / bytes, position = token * step, image = position / m.tokens;
    const int first = static_cast<int>(i - token * bytes) * 8;
    const uint8_t* marks = m.marks + image * (strips - 1) * m.tokens + position;
    uint8_t bit[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int j = first + k, c = j / step;
      bit[k] = j < bits ? marks[c / channels * m.tokens + j % step] >> c % channels & 1 : 0;
    }
    labels[i] = packByte(bit);
  }
}

// How many channels a strip has, and where it lives: as many as leave every processor two blocks, or as few as give all
// processors work. Nothing in the result depends on it.
struct StripPlan {
  int channels;
  bool spills;
  int64_t strips, blocks;  // of an image, of all
  size_t bytes;            // of a block
  size_t spilled, marks;   // scratch: what spills, then the marks

  explicit StripPlan(const KernelArgs& a) {
    const int H = static_cast<int>(a.in[0].dims[1]), W = static_cast<int>(a.in[0].dims[2]);
    const int64_t d = a.in[0].dims[3], images = a.in[0].dims[0], processors = a.device->processors;
    for (channels = 4; channels > 1; channels /= 2)
      if (stripBytes(H, W, channels) <= a.device->sharedBytes / 2 && images * ceilDiv(d, channels) >= processors) break;
    spills = stripBytes(H, W, channels) > a.device->sharedBytes;
    if (spills) channels = 2;
    bytes = (stripBytes(H, W, channels) + 255) / 256 * 256;
    strips = ceilDiv(d, channels);
    blocks = images * strips;
    if (spills && blocks > 2 * processors) blocks = 2 * processors;
    spilled = spills ? static_cast<size_t>(blocks) * bytes : 0;
    marks = static_cast<size_t>(images * strips * positionsOf(a));
  }
};

size_t multiscalePlan(const KernelArgs& a) {
  const StripPlan plan(a);
  return plan.spilled + plan.marks;
}

// The grids are data, and checked where they are uploaded (lib/ops/multiscale.ts).
void launchMultiscale(const KernelArgs& a) {
  const StripPlan plan(a);
  const Multiscale m(a, a.scratchAs<uint8_t>() + plan.spilled);
  const int64_t positions = ceilDiv(static_cast<int64_t>(m.H) * m.W, kWarp) * kWarp;
  const unsigned threads = static_cast<unsigned>(positions < kMostThreads ? positions : kMostThreads);
  const LaunchShape shape{dim3(static_cast<unsigned>(plan.blocks)), dim3(threads), plan.spills ? 0 : plan.bytes};
  const auto kernel = plan.spills          ? multiscaleKernel<2, true>
                      : plan.channels == 4 ? multiscaleKernel<4, false>
                      : plan.channels == 2 ? multiscaleKernel<2, false>
                                           : multiscaleKernel<1, false>;
  launch(a, "multiscale_residual", kernel, shape, m, a.scratchAs<unsigned char>(), plan.bytes);
  launch(a, "multiscale_residual: labels", packLabelsKernel, overElements(a, a.out[0].size(), 1, kPackThreads), m,
         a.out[0].as<uint8_t>(), plan.channels, plan.strips);
}

// What is not asked for is u8 and never written.
bool acceptMultiscale(const TensorView* in, const TensorView* out) {
  const auto storedOrNone = [](const TensorView& v) { return !isFloating(v) || isStored(v); };
  return isStored(in[0]) && isF32(in[2]) && isF32(in[3]) && storedOrNone(out[1]) && isStored(out[2]) &&
         storedOrNone(out[3]);
}

}  // namespace

INFINITY_CUDA_KERNEL(multiscale_residual, launchMultiscale, multiscalePlan, acceptMultiscale);

}  // namespace infinity::cuda
