// Products that leave the moments of the rows of their result, and products that know them: every tile that is right
// for them, against double loops and against the other tiles, bit for bit.
#pragma once
#include <cmath>
#include <cstring>
#include <vector>

#include "cuda/moments.cuh"
#include "cuda/operands.cuh"
#include "tests/expect.h"
#include "tests/plans.h"

namespace {

struct LeavesMoments {
  static constexpr bool kRowSums = false, kMoments = false, kRowMoments = true, kRowFacts = false;
  float *results, *runs;
  int columns;

  __device__ const LeavesMoments& select(const infinity::cuda::BlockWork&) const { return *this; }
  template <int W>
  __device__ void operator()(int row, int column, float (&v)[W]) const {
    for (int i = 0; i < W; ++i) {
      v[i] += 100;  // far from zero
      if (column + i < columns) results[row * columns + column + i] = v[i];
    }
  }
  __device__ void rowMoments(int row, int run, float mean, float deviation) const {
    const int all = (columns + infinity::cuda::kMomentRun - 1) / infinity::cuda::kMomentRun;
    float* const to = runs + (row * all + run) * 2;
    EXPECT(run < all && std::isnan(to[0]));  // left once
    to[0] = mean;
    to[1] = deviation;
  }
};

// Leaves the fact of a row in place of each of its results.
template <bool Shift>
struct TellsFacts {
  static constexpr bool kRowSums = false, kMoments = false, kRowMoments = false, kRowFacts = true;
  infinity::cuda::MeasuredRows rows;
  float* results;
  int columns;

  struct Finish {
    const TellsFacts& of;
    infinity::cuda::RowFacts facts;
    template <int W>
    __device__ void operator()(int row, int column, float (&)[W]) const {
      for (int i = 0; i < W && column + i < of.columns; ++i)
        of.results[row * of.columns + column + i] = Shift ? facts[row].shift : facts[row].rstd;
    }
  };
  __device__ Finish select(const infinity::cuda::BlockWork&, const infinity::cuda::RowFacts& facts) const {
    return {*this, facts};
  }
};

// run(shape, plan, epilogue) launches a product of any operands.
template <class Tiles, class Run>
void everyTileNormsAlike(int rows, int columns, int sums, const Run& run) {
  using namespace infinity::cuda;
  ProductShape shape = {rows, columns, sums};
  shape.columnsTogether = kMomentRun;
  const int runs = (columns + kMomentRun - 1) / kMomentRun;
  const auto each = [&](bool measures, const auto& launch) {
    std::vector<float> first;
    for (int tile = 0; tile < Tiles::kCount; ++tile) {
      if (measures && Tiles::kFacts[tile].columns % kMomentRun != 0) continue;
      ProductPlan plan = planProduct<Tiles>(shape, kH200);
      EXPECT(plan.tile.columns % kMomentRun == 0);
      plan.tile = Tiles::kFacts[tile];
      plan.index = tile;
      plan.blocks = ceilDiv(rows, plan.tile.rows) * ceilDiv(columns, plan.tile.columns);
      const std::vector<float> got = launch(plan);
      if (first.empty()) first = got;
      EXPECT(!std::memcmp(first.data(), got.data(), got.size() * sizeof(float)));
    }
    return first;
  };
  std::vector<float> results(static_cast<size_t>(rows) * columns);
  const std::vector<float> moments = each(true, [&](const ProductPlan& plan) {
    std::vector<float> left(static_cast<size_t>(rows) * runs * 2, NAN);
    run(shape, plan, LeavesMoments{results.data(), left.data(), columns});
    return left;
  });
  const auto told = [&](auto epilogue) {
    return each(false, [&](const ProductPlan& plan) {
      std::vector<float> facts(static_cast<size_t>(rows) * columns, NAN);
      epilogue.results = facts.data();
      run(shape, plan, epilogue);
      return facts;
    });
  };
  for (const bool centred : {true, false}) {
    const MeasuredRows measured = {moments.data(), rows, columns, 0.5f, centred};
    const std::vector<float> rstd = told(TellsFacts<false>{measured, nullptr, columns});
    const std::vector<float> shift = told(TellsFacts<true>{measured, nullptr, columns});
    for (int r = 0; r < rows; ++r) {
      const float* const row = results.data() + static_cast<size_t>(r) * columns;
      double mean = 0, square = 0;
      for (int n = 0; n < columns; ++n) mean += row[n] / static_cast<double>(columns);
      for (int n = 0; n < columns; ++n) square += (row[n] - (centred ? mean : 0)) * (row[n] - (centred ? mean : 0));
      const double want = 1 / std::sqrt(square / columns + 0.5);
      for (int n = 0; n < columns; ++n) {
        const size_t at = static_cast<size_t>(r) * columns + n;
        EXPECT(std::abs(rstd[at] - want) <= 0x1p-20 * want);
        EXPECT(std::abs(shift[at] + (centred ? mean * want : 0)) <= 0x1p-20 * mean * want);
      }
    }
  }
}

}  // namespace
