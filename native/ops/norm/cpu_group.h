// Group normalisation of channels-last pictures, with SiLU fused. Both directions sum each run of pixels on its own
// (`partial`), fold the runs of a sample in order (`merge`), and go over the pixels once more (`apply`).
#pragma once
#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/norm/cpu_rows.h"
#include "ops/norm/norm.h"

namespace infinity::INFINITY_ISA {
namespace {

// Calls f(i, lanes, V) over the channels, V = 4 adjacent vectors where they fit, else one: several independent sums.
template <class T, class F>
INFINITY_INLINE void forChannels(int64_t channels, const F& f) {
  constexpr int lanes = lanesOf<T>;
  int64_t i = 0;
  for (; i + 4 * lanes <= channels; i += 4 * lanes) f.template operator()<4>(i, lanes);
  for (; i + lanes <= channels; i += lanes) f.template operator()<1>(i, lanes);
  if (i < channels) f.template operator()<1>(i, static_cast<int>(channels - i));
}

// With many samples each thread takes whole samples, which stay in its cache between the passes; with few, the runs are
// shared out. The arithmetic is the same.
template <class P, class M, class A>
void overSamples(Pool* pool, const PixelRuns& r, const P& partial, const M& merge, const A& apply) {
  if (r.batch >= 2 * pool->threads() || r.runs == 1) {
    pool->parallelFor(r.batch, [&](int64_t sample) {
      for (int64_t run = 0; run < r.runs; ++run) partial(sample, run);
      merge(sample);
      for (int64_t run = r.runs - 1; run >= 0; --run) apply(sample, run);  // what was read last is still near
    });
    return;
  }
  pool->parallelFor(r.batch * r.runs, [&](int64_t t) { partial(t / r.runs, t % r.runs); });
  pool->parallelFor(r.batch, merge);
  pool->parallelFor(r.batch * r.runs, [&](int64_t t) { apply(t / r.runs, t % r.runs); });
}

// Mean and squared deviations from it, for each channel of one run. Summed relative to the first pixel, so that a mean
// far from zero costs no digits.
template <class T>
void channelMoments(const T* x, int64_t pixels, int64_t channels, T* means, T* deviations) {
  forChannels<T>(channels, [&]<int V>(int64_t i, int m) {
    Vec<T> first[V], sum[V] = {}, squares[V] = {};
    for (int v = 0; v < V; ++v) first[v] = loadUpTo(x + i + v * m, m);
    for (int64_t p = 1; p < pixels; ++p)
      for (int v = 0; v < V; ++v) sum[v] += loadUpTo(x + p * channels + i + v * m, m) - first[v];
    Vec<T> mean[V];
    for (int v = 0; v < V; ++v) mean[v] = fma(sum[v], splat(T(1) / static_cast<T>(pixels)), first[v]);
    for (int64_t p = 0; p < pixels; ++p)
      for (int v = 0; v < V; ++v) {
        const Vec<T> d = loadUpTo(x + p * channels + i + v * m, m) - mean[v];
        squares[v] = fma(d, d, squares[v]);
      }
    for (int v = 0; v < V; ++v) {
      storeUpTo(means + i + v * m, mean[v], m);
      storeUpTo(deviations + i + v * m, squares[v], m);
    }
  });
}

// Per-channel tables of one sample. Forward: mean, rstd·weight. Backward: mean, rstd, and the two corrections.
constexpr int64_t kForwardTables = 2, kBackwardTables = 4;

// The statistics of a group, from the moments of its channels in every run: [runs][mean, deviations][channels].
template <class T>
void mergeMoments(const PixelRuns& r, const T* parts, int64_t begin, int64_t end, float eps, T* stats) {
  const int64_t channels = r.channels;
  const double count = static_cast<double>(r.pixels * (end - begin));
  double total = 0, deviation = 0;
  for (int64_t run = 0; run < r.runs; ++run) {
    const double n = static_cast<double>(r.pixelsIn(run));
    for (int64_t c = begin; c < end; ++c) total += n * parts[run * 2 * channels + c];
  }
  const double centre = total / count;
  // The squares about the mean of the run, and the mean of the run about that of the group.
  for (int64_t run = 0; run < r.runs; ++run) {
    const double n = static_cast<double>(r.pixelsIn(run));
    const T* part = parts + run * 2 * channels;
    for (int64_t c = begin; c < end; ++c) {
      const double off = part[c] - centre;
      deviation += part[channels + c] + n * off * off;
    }
  }
  stats[0] = static_cast<T>(centre);
  stats[1] = static_cast<T>(1 / sqrt(deviation / count + eps));
}

// The tables of one sample, from its statistics [groups, 2].
template <class T>
void forwardTables(const T* stats, const T* weight, int64_t channels, int64_t groups, T* mean, T* gain) {
  const int64_t width = channels / groups;
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] = stats[c / width * 2];
    gain[c] = stats[c / width * 2 + 1] * weight[c];
  }
}

template <class T>
void normalizePixels(const T* x, int64_t pixels, int64_t channels, const T* mean, const T* gain, const T* bias,
                     bool fused, T* y) {
  for (int64_t p = 0; p < pixels; ++p, x += channels, y += channels) {
    forRow<T>(channels, [&](int64_t i, int m) {
      const Vec<T> d = loadUpTo(x + i, m) - loadUpTo(mean + i, m);
      const Vec<T> z = fma(d, loadUpTo(gain + i, m), loadUpTo(bias + i, m));
      storeUpTo(y + i, fused ? silu(z) : z, m);
    });
  }
}

// Inputs x, weight, bias; outputs y and the statistics [B, groups, 2].
template <class T>
void groupNormKernel(const KernelArgs& a) {
  const PixelRuns r(a.in[0]);
  const GroupNormParams& params = a.paramsAs<GroupNormParams>();
  const int64_t channels = r.channels, groups = params.groups, width = channels / groups;
  T* moments = static_cast<T*>(a.scratch);
  T* tables = moments + r.batch * r.runs * 2 * channels;
  const auto at = [&](int64_t sample, int64_t run) { return (sample * r.pixels + r.firstPixel(run)) * channels; };

  const auto partial = [&](int64_t sample, int64_t run) {
    T* part = moments + (sample * r.runs + run) * 2 * channels;
    channelMoments(a.in[0].as<T>() + at(sample, run), r.pixelsIn(run), channels, part, part + channels);
  };
  const auto merge = [&](int64_t sample) {
    T *mean = tables + sample * kForwardTables * channels, *stats = a.out[1].as<T>() + sample * groups * 2;
    for (int64_t g = 0; g < groups; ++g)
      mergeMoments(r, moments + sample * r.runs * 2 * channels, g * width, (g + 1) * width, params.eps, stats + g * 2);
    forwardTables(stats, a.in[1].as<T>(), channels, groups, mean, mean + channels);
  };
  const auto apply = [&](int64_t sample, int64_t run) {
    const T* mean = tables + sample * kForwardTables * channels;
    normalizePixels(a.in[0].as<T>() + at(sample, run), r.pixelsIn(run), channels, mean, mean + channels,
                    a.in[2].as<T>(), params.silu != 0, a.out[0].as<T>() + at(sample, run));
  };
  overSamples(a.pool, r, partial, merge, apply);
}

size_t groupNormPlan(const KernelArgs& a) {
  const PixelRuns r(a.in[0]);
  return static_cast<size_t>(r.batch * r.channels * (2 * r.runs + kForwardTables)) * dtypeBytes(a.in[0].dtype);
}

// The first half of group_norm: input x; output the statistics [B, groups, 2].
template <class T>
void groupNormStatsKernel(const KernelArgs& a) {
  const PixelRuns r(a.in[0]);
  const GroupStatsParams& params = a.paramsAs<GroupStatsParams>();
  const int64_t channels = r.channels, groups = params.groups, width = channels / groups;
  T* moments = static_cast<T*>(a.scratch);
  a.pool->parallelFor(r.batch * r.runs, [&](int64_t t) {
    const int64_t sample = t / r.runs, run = t % r.runs;
    T* part = moments + t * 2 * channels;
    channelMoments(a.in[0].as<T>() + (sample * r.pixels + r.firstPixel(run)) * channels, r.pixelsIn(run), channels,
                   part, part + channels);
  });
  a.pool->parallelFor(r.batch * groups, [&](int64_t t) {
    const int64_t sample = t / groups, g = t % groups;
    mergeMoments(r, moments + sample * r.runs * 2 * channels, g * width, (g + 1) * width, params.eps,
                 a.out[0].as<T>() + t * 2);
  });
}

size_t groupNormStatsPlan(const KernelArgs& a) {
  const PixelRuns r(a.in[0]);
  return static_cast<size_t>(r.batch * r.runs * 2 * r.channels) * dtypeBytes(a.in[0].dtype);
}

// The second half: inputs x (or any rows of it), statistics, weight, bias; output y.
template <class T>
void groupNormApplyKernel(const KernelArgs& a) {
  const PixelRuns r(a.in[0]);
  const GroupApplyParams& params = a.paramsAs<GroupApplyParams>();
  const int64_t channels = r.channels, groups = params.groups;
  T* tables = static_cast<T*>(a.scratch);
  for (int64_t sample = 0; sample < r.batch; ++sample) {
    T* mean = tables + sample * kForwardTables * channels;
    forwardTables(a.in[1].as<T>() + sample * groups * 2, a.in[2].as<T>(), channels, groups, mean, mean + channels);
  }
  a.pool->parallelFor(r.batch * r.runs, [&](int64_t t) {
    const int64_t sample = t / r.runs, run = t % r.runs;
    const int64_t at = (sample * r.pixels + r.firstPixel(run)) * channels;
    const T* mean = tables + sample * kForwardTables * channels;
    normalizePixels(a.in[0].as<T>() + at, r.pixelsIn(run), channels, mean, mean + channels, a.in[3].as<T>(),
                    params.silu != 0, a.out[0].as<T>() + at);
  });
}

size_t groupNormApplyPlan(const KernelArgs& a) {
  return static_cast<size_t>(a.in[0].dims[0] * a.in[0].cols() * kForwardTables) * dtypeBytes(a.in[0].dtype);
}

// Inputs gy, x, stats, weight, bias; outputs gx and the gradients of weight and bias.
template <class T>
void groupNormBackwardKernel(const KernelArgs& a) {
  const PixelRuns r(a.in[1]);
  const GroupNormParams& params = a.paramsAs<GroupNormParams>();
  const int64_t channels = r.channels, groups = params.groups, width = channels / groups;
  const T *weight = a.in[3].as<T>(), *bias = a.in[4].as<T>();
  const bool fused = params.silu != 0;
  T* sums = static_cast<T*>(a.scratch);
  T* tables = sums + r.batch * r.runs * 2 * channels;
  const auto at = [&](int64_t sample, int64_t run) { return (sample * r.pixels + r.firstPixel(run)) * channels; };
  // The gradient before SiLU, and the normalised value.
  const auto before = [&](const T* gy, const T* x, const T* table, int64_t i, int m, Vec<T>& normal) {
    normal = (loadUpTo(x + i, m) - loadUpTo(table + i, m)) * loadUpTo(table + channels + i, m);
    const Vec<T> g = loadUpTo(gy + i, m);
    return fused ? g * siluGrad(fma(normal, loadUpTo(weight + i, m), loadUpTo(bias + i, m))) : g;
  };

  a.pool->parallelFor(r.batch, [&](int64_t sample) {
    T* table = tables + sample * kBackwardTables * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const T* stats = a.in[2].as<T>() + (sample * groups + c / width) * 2;
      table[c] = stats[0];
      table[channels + c] = stats[1];
    }
  });
  const auto partial = [&](int64_t sample, int64_t run) {
    const T* table = tables + sample * kBackwardTables * channels;
    T* part = sums + (sample * r.runs + run) * 2 * channels;
    const T *gy = a.in[0].as<T>() + at(sample, run), *x = a.in[1].as<T>() + at(sample, run);
    const int64_t pixels = r.pixelsIn(run);
    forChannels<T>(channels, [&]<int V>(int64_t i, int m) {
      Vec<T> plain[V] = {}, along[V] = {};
      for (int64_t p = 0; p < pixels; ++p)
        for (int v = 0; v < V; ++v) {
          Vec<T> normal;
          const Vec<T> g = before(gy + p * channels, x + p * channels, table, i + v * m, m, normal);
          plain[v] += g;
          along[v] = fma(g, normal, along[v]);
        }
      for (int v = 0; v < V; ++v) {
        storeUpTo(part + i + v * m, plain[v], m);
        storeUpTo(part + channels + i + v * m, along[v], m);
      }
    });
  };
  const auto merge = [&](int64_t sample) {
    T* first = sums + sample * r.runs * 2 * channels;  // the runs are added into the first
    for (int64_t run = 1; run < r.runs; ++run)
      for (int64_t c = 0; c < 2 * channels; ++c) first[c] += first[run * 2 * channels + c];
    T *offset = tables + (sample * kBackwardTables + 2) * channels, *slope = offset + channels;
    const T count = static_cast<T>(r.pixels * width);
    for (int64_t g = 0; g < groups; ++g) {
      T plain = 0, along = 0;
      for (int64_t c = g * width; c < (g + 1) * width; ++c) {
        plain += first[c] * weight[c];
        along += first[channels + c] * weight[c];
      }
      for (int64_t c = g * width; c < (g + 1) * width; ++c) {
        offset[c] = plain / count;
        slope[c] = along / count;
      }
    }
  };
  const auto apply = [&](int64_t sample, int64_t run) {
    const T* table = tables + sample * kBackwardTables * channels;
    const T *rstd = table + channels, *offset = rstd + channels, *slope = offset + channels;
    const T *gy = a.in[0].as<T>() + at(sample, run), *x = a.in[1].as<T>() + at(sample, run);
    T* gx = a.out[0].as<T>() + at(sample, run);
    const int64_t pixels = r.pixelsIn(run);
    for (int64_t p = 0; p < pixels; ++p, gy += channels, x += channels, gx += channels) {
      forRow<T>(channels, [&](int64_t i, int m) {
        Vec<T> normal;
        const Vec<T> g = before(gy, x, table, i, m, normal);
        const Vec<T> centred = fma(g, loadUpTo(weight + i, m), -loadUpTo(offset + i, m));
        storeUpTo(gx + i, loadUpTo(rstd + i, m) * fma(-normal, loadUpTo(slope + i, m), centred), m);
      });
    }
  };
  overSamples(a.pool, r, partial, merge, apply);
  T *gweight = a.out[1].as<T>(), *gbias = a.out[2].as<T>();
  for (int64_t c = 0; c < channels; ++c) gweight[c] = gbias[c] = 0;
  for (int64_t sample = 0; sample < r.batch; ++sample) {
    const T* total = sums + sample * r.runs * 2 * channels;
    for (int64_t c = 0; c < channels; ++c) {
      gbias[c] += total[c];
      gweight[c] += total[channels + c];
    }
  }
}

size_t groupNormBackwardPlan(const KernelArgs& a) {
  const PixelRuns r(a.in[1]);
  return static_cast<size_t>(r.batch * r.channels * (2 * r.runs + kBackwardTables)) * dtypeBytes(a.in[1].dtype);
}

}  // namespace
}  // namespace infinity::INFINITY_ISA
