// How attention is given to Hopper's warpgroups: who takes which part, and the merge of pieces that were shared out.
#pragma once
#include "ops/attention/cuda_hopper.cuh"

namespace infinity::cuda {
namespace {

// Calls f with the geometry of a head so wide.
template <class F>
void withWarpgroupWidth(int64_t width, const F& f) {
  if (width <= 64) return f(WarpgroupGeometry<64>{});
  if (width <= 96) return f(WarpgroupGeometry<96>{});
  if (width <= 112) return f(WarpgroupGeometry<112>{});
  if (width <= 128) return f(WarpgroupGeometry<128>{});
  if (width <= 224) return f(WarpgroupGeometry<224>{});
  f(WarpgroupGeometry<256>{});
}

// Into how many pieces the keys of a query are cut and shared out: as many as there may be where units of all rows
// would leave half of the processors idle, else 1. Nothing in the result depends on it.
inline int sharedPieces(const AttentionShape& s, const DeviceFacts& device, int pieceKeys = kPieceKeys) {
  int64_t units = 0;
  withWarpgroupWidth(s.width,
                     [&](auto geometry) { units = s.batch * s.heads * ceilDiv(s.queries, decltype(geometry)::kRows); });
  return units * 2 <= device.processors ? static_cast<int>(ceilDiv(s.keys, pieceKeys)) : 1;
}
inline size_t piecesScratch(const AttentionShape& s, int pieces) {
  const int64_t rows = pieces > 1 ? pieces * s.batch * s.heads * s.queries : 0;
  return static_cast<size_t>(rows * (s.width + 4)) * sizeof(float);
}

// Four channels of a row a thread.
constexpr int kMergedChannels = 4;
__global__ void mergePieces(const WarpgroupAttention f) {
  const int packs = static_cast<int>(f.shape.width) / kMergedChannels;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x, rows = f.rows();
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * packs; i += stride) {
    const int64_t row = i / packs, head = row / f.shape.queries, query = row % f.shape.queries;
    const int64_t b = head / f.shape.heads, h = head % f.shape.heads;
    const int d = static_cast<int>(i % packs) * kMergedChannels;
    const KeyRange range = rangeOf(f.ranges, b, query, f.shape.queries);
    RowTotals totals = {-INFINITY, 0, 0};
    Pack<float, kMergedChannels> sums = {};
    for (int piece = 0; !range.empty() && piece * f.pieceKeys < range.end - range.start; ++piece) {
      const int64_t at = piece * rows + row;
      const auto t = loadPack<4>(f.pieceTotals + at * 4);
      const auto of = loadPack<kMergedChannels>(f.pieceSums + at * f.shape.width + d);
      const RowTotals ofPiece = {t.v[0], t.v[1], t.v[2]};
      if (piece == 0) {
        totals = ofPiece, sums = of;
        continue;
      }
      const PieceFactors factors = addPiece(totals, ofPiece);
#pragma unroll
      for (int e = 0; e < kMergedChannels; ++e) sums.v[e] = factors.add(sums.v[e], of.v[e]);
    }
    Pack<bf16, kMergedChannels> out;
#pragma unroll
    for (int e = 0; e < kMergedChannels; ++e) out.v[e] = fromFloat<bf16>(sums.v[e] * totals.inverse());
    storePack(f.o + f.shape.query(b, h, query) + d, out);
    if (d == 0) f.lse[row] = totals.logSumExp();
  }
}

struct AttentionRows {
  const bf16 *q, *k, *v;
  int64_t keyRows;  // of k, all samples together
};

// The heads whose keys and values fill half of the second level of cache.
inline int headsInCache(const AttentionShape& s, const DeviceFacts& device) {
  const int64_t bytes = 2 * s.keys * s.width * static_cast<int64_t>(sizeof(bf16));
  const int64_t some = static_cast<int64_t>(device.cacheBytes / 2) / (bytes > 0 ? bytes : 1), all = s.batch * s.heads;
  return static_cast<int>(some < 1 ? 1 : some < all ? some : all);
}

// `f` with output, shape, ranges, scale and fault; the rest is decided here. Widths are multiples of 8 up to 256, rows
// begin at multiples of 16 bytes, and the scale is positive.
template <class G>
void launchAttentionWarpgroups(const KernelArgs& args, const AttentionRows& rows, WarpgroupAttention f, int pieces,
                               int pieceKeys) {
  const AttentionShape& s = f.shape;
  if (s.queries == 0 || s.batch == 0) return;
  TensorMap mapQ, mapK, mapV;
  const auto mapped = [&](TensorMap& map, const bf16* data, int64_t n) {
    return encodeHeadMap(map, data, static_cast<uint64_t>(s.width), static_cast<uint64_t>(s.heads),
                         static_cast<uint64_t>(n), G::kRows);
  };
  if (!mapped(mapQ, rows.q, s.batch * s.queries) || !mapped(mapK, rows.k, rows.keyRows) ||
      !mapped(mapV, rows.v, rows.keyRows)) {
    if (args.failure->code) return;
    args.failure->code = "DEVICE_UNAVAILABLE";
    std::snprintf(args.failure->message, sizeof args.failure->message,
                  "The driver makes no tensor maps for the operands of 'attention', %lld heads of %lld channels.",
                  static_cast<long long>(s.heads), static_cast<long long>(s.width));
    return;
  }
  f.pieceKeys = pieceKeys;
  f.pieces = pieces;
  f.headsTogether = headsInCache(s, *args.device);
  f.units = static_cast<int>(s.batch * s.heads * ceilDiv(s.queries, G::kRows) * pieces);
  f.pieceTotals = pieces > 1 ? args.scratchAs<float>() : nullptr;
  f.pieceSums = pieces > 1 ? f.pieceTotals + pieces * s.batch * s.heads * s.queries * 4 : nullptr;
  const int blocks =
      f.units < static_cast<int>(args.device->processors) ? f.units : static_cast<int>(args.device->processors);
  launch(args, "attention", attentionWarpgroups<G>,
         {dim3(static_cast<unsigned>(blocks)), dim3(G::kThreads), G::kSharedBytes}, mapQ, mapK, mapV, f);
  if (pieces > 1)
    launch(args, "attention: pieces", mergePieces,
           overElements(args, s.batch * s.heads * s.queries * (s.width / kMergedChannels)), f);
}

}  // namespace
}  // namespace infinity::cuda
