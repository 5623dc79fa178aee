// The sums of a warpgroup's queries: between pieces of keys, and on their way out.
#pragma once
#include "ops/attention/cuda_hopper_softmax.cuh"

namespace infinity::cuda {
namespace {

// Where a lane keeps its sums between pieces, and a warp passes its rows on.
template <class G>
struct KeptSums {
  static constexpr int kPitch = G::kWidth + 8;  // of a row of bf16: neighbours begin in different banks
  float* own;                                   // of the warp
  __device__ __forceinline__ float* at(int i) const { return own + (i / 4 * kWarp + laneIndex()) * 4; }

  __device__ __forceinline__ void keep(const float (&sums)[G::kWidth / 2]) const {
#pragma unroll
    for (int i = 0; i < G::kWidth / 2; i += 4)
      storePack(at(i), Pack<float, 4>{{sums[i], sums[i + 1], sums[i + 2], sums[i + 3]}});
  }
  __device__ __forceinline__ void addTo(float (&sums)[G::kWidth / 2], const PieceFactors (&f)[2]) const {
#pragma unroll
    for (int i = 0; i < G::kWidth / 2; i += 4) {
      const auto before = loadPack<4>(at(i));
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[i + e] = f[e / 2].add(before.v[e], sums[i + e]);
    }
  }
  // The warp's rows of the result, `present` of them, from `to` on.
  __device__ __forceinline__ void store(const float (&sums)[G::kWidth / 2], const RowTotals (&totals)[2], bf16* to,
                                        int64_t channels, int width, int64_t present) const {
    bf16* const tile = reinterpret_cast<bf16*>(own);
    __syncwarp();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float factor = totals[half].inverse();
#pragma unroll
      for (int j = 0; j < G::kWidth / 8; ++j) {
        const float *d = sums + j * 4 + half * 2, x = d[0] * factor, y = d[1] * factor;
        storePack(tile + (half * 8 + laneRow()) * kPitch + j * 8 + laneColumn(),
                  Pack<bf16, 2>{{fromFloat<bf16>(x), fromFloat<bf16>(y)}});
      }
    }
    __syncwarp();
    constexpr int kPacks = G::kWidth / 8;
#pragma unroll 1
    for (int i = laneIndex(); i < G::kWarpRows * kPacks; i += kWarp) {
      const int row = i / kPacks, d = i % kPacks * 8;
      if (row < present && d < width) storePack(to + row * channels + d, loadPack<8>(tile + row * kPitch + d));
    }
    __syncwarp();
  }
};

}  // namespace
}  // namespace infinity::cuda
