#include <cstdio>
#include <type_traits>

#include "cuda/route.h"
#include "ops/attention/cuda_backward.cuh"
#include "ops/attention/cuda_forward.cuh"
#include "ops/attention/cuda_hopper_launch.cuh"
#include "ops/attention/cuda_prep.cuh"

namespace infinity::cuda {
namespace {

constexpr int64_t kWidestHead = 256;

// Whether the kernels reach this width; says why not.
bool fits(const KernelArgs& a, int64_t width) {
  if (width <= kWidestHead) return true;
  a.failure->code = "INVALID_SHAPE";
  std::snprintf(a.failure->message, sizeof a.failure->message,
                "Heads of %lld channels: attention on CUDA takes up to %lld.", static_cast<long long>(width),
                static_cast<long long>(kWidestHead));
  return false;
}

// Whether rows of `width` elements, one behind the other, all start on 16 bytes in these tensors.
bool aligned(const TensorView* views, int count, int64_t width, size_t bytes) {
  if (width * static_cast<int64_t>(bytes) % 16 != 0) return false;
  for (int i = 0; i < count; ++i)
    if (reinterpret_cast<uintptr_t>(views[i].data) % 16 != 0) return false;
  return true;
}

template <int n>
using Constant = std::integral_constant<int, n>;

// Calls f with the padded width of a head: matrix fragments follow the official widths, f32 needs fewer steps.
template <class T, class F>
void withWidth(int64_t width, const F& f) {
  if (width <= 32) return f(Constant<32>{});
  if (width <= 64) return f(Constant<64>{});
  if constexpr (std::is_same_v<T, bf16>) {
    if (width <= 96) return f(Constant<96>{});
    if (width <= 112) return f(Constant<112>{});
  }
  if (width <= 128) return f(Constant<128>{});
  if constexpr (std::is_same_v<T, bf16>) {
    if (width <= 224) return f(Constant<224>{});
  }
  f(Constant<256>{});
}

// Rows that stream through shared memory at a time: part of the order of a sum, therefore decided by type and width
// alone; as many as the registers hold scores of.
template <class T, int kWidth>
constexpr int kForwardColumns = (std::is_same_v<T, bf16> ? 64 : 32) / (kWidth > 128 || kWidth == 112 ? 2 : 1);
template <class T, int kWidth>
constexpr int kBackwardColumns = std::is_same_v<T, bf16> || kWidth <= 128 ? 32 : 16;

// Blocks of 64 rows; of 128 where the registers hold them, so that a tile of keys serves more queries; of 16 or 32, all
// of them every warp's, where larger ones would leave processors idle. Nothing in the result depends on it.
template <class T, int kWidth>
using NarrowForward = Geometry<T, kWidth, 4, 1, kForwardColumns<T, kWidth>>;
template <class T, int kWidth>
using WideForward = Geometry<T, kWidth, 4, 2, kForwardColumns<T, kWidth>>;
template <class T, int kWidth>
constexpr bool kHasWideForward = std::is_same_v<T, bf16>&& kWidth <= 128;
// Padded to parts of whole fragments.
template <int kWidth>
constexpr int kTogetherWidth = kWidth <= 64    ? 64
                               : kWidth <= 128 ? 128
                                               : 256;
template <class T, int kWidth, int kBands>
using TogetherForward = TogetherGeometry<T, kTogetherWidth<kWidth>, 4, kBands, kForwardColumns<T, kWidth>>;
// Two tiles of rows and four of columns are in shared memory, which the widest f32 rows fill with two warps.
template <class T, int kWidth>
using Backward = Geometry<T, kWidth, std::is_same_v<T, bf16> || kWidth <= 128 ? 4 : 2, 1, kBackwardColumns<T, kWidth>>;

// Blocks with tiles of rows, of columns and of the bias in shared memory.
template <class G>
LaunchShape blocks(int64_t count, int rowTiles, int columnTiles, int biasTiles) {
  const int elements = rowTiles * G::rowsElements + columnTiles * G::columnsElements + biasTiles * G::biasElements;
  return {dim3(static_cast<unsigned>(count)), dim3(G::threads), static_cast<size_t>(elements) * sizeof(typename G::T)};
}

template <class G, bool kBias>
LaunchShape forwardShape(const AttentionShape& s) {
  LaunchShape shape = blocks<G>(s.batch * s.heads * ceilDiv(s.queries, G::rows), 1, 4, 2 * kBias);
  if constexpr (G::together) shape.shared += G::exchangeFloats * sizeof(float);
  return shape;
}

template <class G, bool kBias>
void launchForward(const KernelArgs& a, const AttentionForward<typename G::T>& f) {
  launch(a, "attention", attentionForward<G, kBias>, forwardShape<G, kBias>(f.shape), f);
}

// The fewest rows a block with which one wave does.
template <class T, int kWidth>
void launchUnbiased(const KernelArgs& a, const AttentionForward<T>& f) {
  using Narrow = NarrowForward<T, kWidth>;
  const AttentionShape& s = f.shape;
  const auto few = [&](int rows) {
    return s.queries <= rows || s.batch * s.heads * ceilDiv(s.queries, rows) <= a.device->processors;
  };
  // Cards of compute capability 8.6, 8.9 and 12 have less shared memory than the widest heads want for 64 rows. Ranges
  // and what a reduction needs are there as well.
  const auto fitsCard = [&](const LaunchShape& shape, int rows) {
    return shape.shared + (rows + 2) * sizeof(KeyRange) <= a.device->sharedBytes;
  };
  if (few(16) || !fitsCard(forwardShape<Narrow, false>(s), Narrow::rows))
    return launchForward<TogetherForward<T, kWidth, 1>, false>(a, f);
  if (few(32)) return launchForward<TogetherForward<T, kWidth, 2>, false>(a, f);
  if constexpr (kHasWideForward<T, kWidth>) {
    using Wide = WideForward<T, kWidth>;
    if (s.batch * s.heads * ceilDiv(s.queries, Wide::rows) >= a.device->processors &&
        fitsCard(forwardShape<Wide, false>(s), Wide::rows))
      return launchForward<Wide, false>(a, f);
  }
  launchForward<Narrow, false>(a, f);
}

AttentionShape attentionShape(const KernelArgs& a) {
  return AttentionShape(a.in[0], a.in[1], a.paramsAs<AttentionParams>());
}
bool forwardAligned(const KernelArgs& a, int64_t width) {
  const TensorView rows[] = {a.in[0], a.in[1], a.in[2], a.out[0]};
  return aligned(rows, 4, width, dtypeBytes(a.in[0].dtype));
}
AttentionCase attentionCase(const KernelArgs& a) {
  const AttentionParams& params = a.paramsAs<AttentionParams>();
  const AttentionShape s = attentionShape(a);
  int64_t keys = 1;
  while (keys < s.keys) keys *= 2;
  return {s.batch,
          s.queries,
          keys,
          s.heads,
          s.width,
          a.in[0].dtype,
          forwardAligned(a, s.width),
          a.in[3] && a.in[3].dims[1] > 1,
          static_cast<bool>(a.in[4]),
          params.unitKeys != 0,
          params.scale > 0};
}

void attentionByFragments(const KernelArgs& a) {
  const AttentionShape s = attentionShape(a);
  withElement(a.in[0].dtype, [&](auto element) {
    using T = decltype(element);
    const AttentionForward<T> f = {a.in[0].as<T>(),
                                   a.in[1].as<T>(),
                                   a.in[2].as<T>(),
                                   a.in[4].as<T>(),
                                   a.out[0].as<T>(),
                                   a.out[1].as<float>(),
                                   s,
                                   KeyRanges(a.in[3], s.keys),
                                   {s.channels, static_cast<int>(s.width), forwardAligned(a, s.width)},
                                   a.paramsAs<AttentionParams>().scale,
                                   a.fault};
    withWidth<T>(s.width, [&](auto width) {
      if (f.bias) return launchForward<NarrowForward<T, width.value>, true>(a, f);
      launchUnbiased<T, width.value>(a, f);
    });
  });
}

void attentionByWarpgroups(const KernelArgs& a) {
  const AttentionParams& params = a.paramsAs<AttentionParams>();
  const AttentionShape s = attentionShape(a);
  const AttentionRows rows = {a.in[0].as<bf16>(), a.in[1].as<bf16>(), a.in[2].as<bf16>(), a.in[1].rows()};
  const WarpgroupAttention f = {a.out[0].as<bf16>(),
                                a.out[1].as<float>(),
                                s,
                                KeyRanges(a.in[3], s.keys),
                                params.scale * Exponent<bf16>::perNatural,
                                params.unitKeys != 0,
                                a.fault};
  withWarpgroupWidth(s.width, [&](auto geometry) {
    launchAttentionWarpgroups<decltype(geometry)>(a, rows, f, sharedPieces(s, *a.device), kPieceKeys);
  });
}

// Inputs q, k, v, ranges, bias; outputs o and the log-sum-exps [B, H, Lq] in f32.
void attention(const KernelArgs& a) {
  if (!fits(a, attentionShape(a).width)) return;
  a.routes->launch(a, attentionCase(a), [](const KernelArgs& args, ProductRoute route) {
    route == ProductRoute::warpgroups ? attentionByWarpgroups(args) : attentionByFragments(args);
  });
}
size_t attentionScratch(const KernelArgs& a) {
  if (!a.routes->mayTake(ProductRoute::warpgroups, attentionCase(a))) return 0;
  const AttentionShape s = attentionShape(a);
  return piecesScratch(s, sharedPieces(s, *a.device));
}

// Inputs go, q, k, v, o, lse, ranges, bias; outputs gq, gk, gv and, with the bias, its gradient.
template <bool withBias>
void attentionBackward(const KernelArgs& a) {
  const AttentionParams& params = a.paramsAs<AttentionParams>();
  const AttentionShape s(a.in[1], a.in[2], params);
  if (!fits(a, s.width)) return;
  withElement(a.in[1].dtype, [&](auto element) {
    using T = decltype(element);
    const TensorView rows[] = {a.in[0], a.in[1], a.in[2], a.in[3], a.in[4], a.out[0], a.out[1], a.out[2]};
    const HeadLayout layout = {s.channels, static_cast<int>(s.width), aligned(rows, 8, s.width, sizeof(T))};
    const AttentionBackward<T> f = {a.in[0].as<T>(),
                                    a.in[1].as<T>(),
                                    a.in[2].as<T>(),
                                    a.in[3].as<T>(),
                                    withBias ? a.in[7].as<T>() : nullptr,
                                    a.in[5].as<float>(),
                                    a.scratchAs<float>(),
                                    a.out[0].as<T>(),
                                    a.out[1].as<T>(),
                                    a.out[2].as<T>(),
                                    withBias ? a.out[3].as<T>() : nullptr,
                                    s,
                                    KeyRanges(a.in[6], s.keys),
                                    layout,
                                    params.scale};
    launch(a, "attention_inner", attentionInner<T>, overElements(a, s.batch * s.queries * s.heads * kInnerLanes), f.go,
           a.in[4].as<T>(), s, layout, a.scratchAs<float>());
    withWidth<T>(s.width, [&](auto width) {
      using G = Backward<T, width.value>;
      launch(a, "attention_backward_q", attentionQueryGradient<G, withBias>,
             blocks<G>(s.batch * s.heads * ceilDiv(s.queries, G::rows), 2, 4, 2 * withBias), f);
      const LaunchShape byKeys =
          blocks<G>((s.sharedKeys ? 1 : s.batch) * s.heads * ceilDiv(s.keys, G::rows), 2, 4, 2 * withBias);
      if constexpr (width.value <= 128) {
        launch(a, "attention_backward_kv", attentionKeyGradient<G, withBias, true, true>, byKeys, f);
      } else {
        launch(a, "attention_backward_k", attentionKeyGradient<G, withBias, true, false>, byKeys, f);
        launch(a, "attention_backward_v", attentionKeyGradient<G, withBias, false, true>, byKeys, f);
      }
      if constexpr (withBias)
        launch(a, "attention_backward_bias", attentionBiasGradient<G>,
               blocks<G>(s.heads * ceilDiv(s.queries, G::rows) * ceilDiv(s.keys, G::columns), 2, 2, 1), f);
    });
  });
}

size_t attentionBackwardPlan(const KernelArgs& a) {
  const AttentionShape s(a.in[1], a.in[2], a.paramsAs<AttentionParams>());
  return static_cast<size_t>(s.batch * s.heads * s.queries) * sizeof(float);
}

bool isFloat(const TensorView& v) { return v.dtype == DType::f32 || v.dtype == DType::bf16; }
bool oneFloatingType(const TensorView* views, int count) {
  for (int i = 0; i < count; ++i)
    if (views[i] && views[i].dtype != views[0].dtype) return false;
  return isFloat(views[0]);
}
// One type for rows and bias; f32 for log-sum-exps.
bool attentionAccepts(const TensorView* in, const TensorView* out) {
  return oneFloatingType(in, 3) && (!in[4] || in[4].dtype == in[0].dtype) && out[1].dtype == DType::f32;
}
template <bool withBias>
bool attentionBackwardAccepts(const TensorView* in, const TensorView* out) {
  return oneFloatingType(in, 5) && oneFloatingType(out, 3 + withBias) && in[5].dtype == DType::f32 &&
         out[0].dtype == in[0].dtype && (!withBias || in[7].dtype == in[0].dtype);
}

// Calls f with the lanes that hold a head.
template <class T, class F>
void withLanes(int64_t width, const F& f) {
  const int64_t packs = ceilDiv(width, kPerPack<T> * kPrepPacks);
  if (packs <= 2) return f(Constant<2>{});
  if (packs <= 4) return f(Constant<4>{});
  if (packs <= 8) return f(Constant<8>{});
  if (packs <= 16) return f(Constant<16>{});
  f(Constant<32>{});
}

// Where log gains and rotation lie in their inputs, and whether packs may be read.
QkvPrep prepOf(const PrepShape& s, const QkvPrepParams& params, const PrepRows& rows, const TensorView* gainAndTurns,
               bool packed) {
  const FloatSource rotation(gainAndTurns[1]);
  const bool packedTurns = packed && reinterpret_cast<uintptr_t>(rotation.data) % 16 == 0;
  return {s, params, rows, FloatSource(gainAndTurns[0]), rotation, packed, packedTurns};
}

// Inputs qkv [.., L, 3C], log gains [H], rotation [rows, c/2, 2]; outputs q, k, v, of which k and v lie in `rows`.
void prepare(const KernelArgs& a, const char* name, const QkvPrepParams& params, const PrepShape& s,
             const PrepRows& rows) {
  if (!fits(a, s.width)) return;
  withElement(a.in[0].dtype, [&](auto element) {
    using T = decltype(element);
    const bool packed = aligned(a.in, 1, s.width, sizeof(T)) && aligned(a.out, 3, s.width, sizeof(T));
    const QkvPrep f = prepOf(s, params, rows, a.in + 1, packed);
    withLanes<T>(s.width, [&](auto lanes) {
      launch(a, name, qkvPrep<T, lanes.value>, overSlots<lanes.value>(s), f, a.in[0].as<T>(), a.out[0].as<T>(),
             a.out[1].as<T>(), a.out[2].as<T>());
    });
  });
}
void prep(const KernelArgs& a) {
  const QkvPrepParams& params = a.paramsAs<QkvPrepParams>();
  const PrepShape s(a.in[0], params.heads);
  prepare(a, "qkv_prep", params, s, PrepRows(s));
}
void append(const KernelArgs& a) {
  const QkvAppendParams& params = a.paramsAs<QkvAppendParams>();
  prepare(a, "qkv_append", params.prep, PrepShape(a.in[0], params.prep.heads), PrepRows(params));
}

// Inputs gq, gk, gv (each may be absent), qkv, log gains, rotation; output gqkv.
// With a gain a second output takes its gradient.
template <bool withGain>
void prepBackward(const KernelArgs& a) {
  const QkvPrepParams& params = a.paramsAs<QkvPrepParams>();
  const PrepShape s(a.in[3], params.heads);
  if (!fits(a, s.width)) return;
  const int heads = static_cast<int>(s.heads);
  float* slopes = withGain ? a.scratchAs<float>() : nullptr;
  withElement(a.in[3].dtype, [&](auto element) {
    using T = decltype(element);
    const bool packed = aligned(a.in, 4, s.width, sizeof(T)) && aligned(a.out, 1, s.width, sizeof(T));
    const QkvPrep f = prepOf(s, params, PrepRows(s), a.in + 4, packed);
    withLanes<T>(s.width, [&](auto lanes) {
      launch(a, "qkv_prep_backward", qkvPrepBackward<T, lanes.value>, overSlots<lanes.value>(s), f, a.in[0].as<T>(),
             a.in[1].as<T>(), a.in[2].as<T>(), a.in[3].as<T>(), a.out[0].as<T>(), slopes);
    });
  });
  if (!withGain) return;
  int64_t rows = s.rows;
  float* from = slopes;
  do {
    float* to = from + rows * heads;
    const int64_t sums = ceilDiv(rows, kGainRows);
    launch(a, "qkv_prep_gain_sums", sumSlopes,
           {dim3(static_cast<unsigned>(sums), static_cast<unsigned>(ceilDiv(heads, kWarp))), dim3(kWarp, kGainLines)},
           from, rows, heads, to);
    from = to, rows = sums;
  } while (rows > 1);
  withElement(a.out[1].dtype, [&](auto element) {
    using T = decltype(element);
    launch(a, "qkv_prep_gain", gainGradient<T>, {dim3(1), dim3(kPrepThreads)}, FloatSource(a.in[4]), from, heads,
           a.out[1].as<T>());
  });
}

size_t prepGainPlan(const KernelArgs& a) {
  const PrepShape s(a.in[3], a.paramsAs<QkvPrepParams>().heads);
  int64_t rows = s.rows, all = rows;
  do all += rows = ceilDiv(rows, kGainRows);
  while (rows > 1);
  return static_cast<size_t>(all * s.heads) * sizeof(float);
}

// Gain and rotation may be f32 under bf16 rows.
bool prepAccepts(const TensorView* in, const TensorView* out) {
  return isFloat(in[0]) && oneFloatingType(out, 3) && out[0].dtype == in[0].dtype && (!in[1] || isFloat(in[1])) &&
         (!in[2] || isFloat(in[2]));
}
bool prepBackwardAccepts(const TensorView* in, const TensorView* out) {
  for (int i = 0; i < 3; ++i)
    if (in[i] && in[i].dtype != in[3].dtype) return false;
  return isFloat(in[3]) && out[0].dtype == in[3].dtype && (!in[4] || isFloat(in[4])) && (!in[5] || isFloat(in[5]));
}
bool prepGainBackwardAccepts(const TensorView* in, const TensorView* out) {
  return prepBackwardAccepts(in, out) && isFloat(out[1]);
}

}  // namespace

INFINITY_CUDA_KERNEL(qkv_prep, prep, nullptr, prepAccepts);
INFINITY_CUDA_KERNEL(qkv_append, append, nullptr, prepAccepts);
INFINITY_CUDA_KERNEL(qkv_prep_backward, prepBackward<false>, nullptr, prepBackwardAccepts);
INFINITY_CUDA_KERNEL(qkv_prep_gain_backward, prepBackward<true>, prepGainPlan, prepGainBackwardAccepts);
INFINITY_CUDA_KERNEL(attention, attention, attentionScratch, attentionAccepts);
INFINITY_CUDA_KERNEL(attention_backward, attentionBackward<false>, attentionBackwardPlan,
                     attentionBackwardAccepts<false>);
INFINITY_CUDA_KERNEL(attention_bias_backward, attentionBackward<true>, attentionBackwardPlan,
                     attentionBackwardAccepts<true>);

}  // namespace infinity::cuda
