// Matrix products of CUDA: which tile is planned for what, and every tile on every layout of operands against a double
// loop and against the other tiles, bit for bit. The ops' own tests meet only the tiles that are planned for their
// sizes.
#include "tests/simt.cc"
// Above: what the headers below take from the CUDA language.
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "cuda/gemm.cuh"
#include "tests/expect.h"
#include "tests/plans.h"
#include "tests/row_norms.h"

namespace {

using namespace infinity;
using namespace infinity::cuda;

constexpr DeviceFacts kA100 = {108, 80, 166912, 40u << 20};

void plansAreSensible() {
  EXPECT(planned<TilesBf16>({8192, 8192, 2048}, 128, 256));
  EXPECT(planned<TilesBf16>({1280, 1280, 2048}, 128, 128));
  EXPECT(planned<TilesBf16>({512, 2048, 2048}, 64, 64));
  EXPECT(planned<TilesBf16>({2, 2048, 2048}, 16, 32));
  EXPECT(planned<TilesBf16>({1 << 20, 3, 1152}, 128, 16));
  EXPECT(planned<TilesF32>({8192, 2048, 2048}, 128, 128));
  EXPECT(planned<TilesF32>({512, 1024, 1024}, 64, 64));
  EXPECT(planned<TilesF32>({1, 1024, 1024}, 16, 32));
  EXPECT(planned<TilesF32>({1 << 20, 3, 1152}, 128, 16));
  for (const TileFacts& tile : TilesBf16::kFacts) EXPECT(tile.sharedBytes <= kA100.sharedBytes);

  char text[200];
  describe(planProduct<TilesBf16>({8192, 8192, 2048}, kH200), text, sizeof text);
  EXPECT(!std::strcmp(text,
                      "128x256x64 in 3 stages, 256 threads, 2048 blocks, 1 split of 2048: "
                      "many tiles: fewest reads for each multiply-add"));
  // A gradient of few outputs is cut, one of many is not, whatever the card.
  EXPECT(splitsOf({128, 1152, 1 << 20}) == 29 && splitsOf({8192, 2048, 4096}) == 1 && splitsOf({8, 8, 100}) == 1);
  EXPECT(planProduct<TilesF32>({8, 8, 1000}, kH200, 3).splitLength == 384);
}

uint32_t state;
float draw() {
  state = state * 1664525 + 1013904223;
  return static_cast<float>(static_cast<int32_t>(state >> 23)) / 256 - 1;  // nine bits, of which bf16 has eight
}
template <class T>
std::vector<T> drawn(int64_t n) {
  std::vector<T> values(static_cast<size_t>(n));
  for (T& v : values) v = fromFloat<T>(draw());
  return values;
}

struct Size {
  int rows, columns, sums, splits, offset;  // operands begin `offset` elements into their memory
};

// Element (m, k) of an operand whose neighbours run along k (Fast) or along m.
template <bool Fast, class T>
double element(const T* data, const Size& s, int m, int k, int rows) {
  return toFloat(data[Fast ? static_cast<int64_t>(m) * s.sums + k : static_cast<int64_t>(k) * rows + m]);
}
template <bool Fast, class Product, class T>
auto loader(const T* data, int rows, int sums) {
  if constexpr (Fast)
    return matrixRows<Product>(data, rows, sums);
  else
    return matrixColumns<Product>(data, rows, sums);
}

template <class A, class B, bool FastA, bool FastB>
void everyTileIsRight(const Size& s) {
  using Tiles = TilesFor<A>;
  const auto a = drawn<A>(int64_t{s.rows} * s.sums + s.offset), b = drawn<B>(int64_t{s.columns} * s.sums + s.offset);
  const A* left = a.data() + s.offset;
  const B* right = b.data() + s.offset;
  const ProductShape shape = {s.rows, s.columns, s.sums};
  const size_t outputs = static_cast<size_t>(s.rows) * s.columns;
  std::vector<float> first;
  for (int tile = 0; tile < Tiles::kCount; ++tile) {
    ProductPlan plan = planProduct<Tiles>(shape, kH200, s.splits);
    plan.tile = Tiles::kFacts[tile];
    plan.index = tile;
    std::vector<float> got(plan.splits * (outputs + s.rows), NAN);
    const PartialSums partial = {got.data(), got.data() + plan.splits * outputs, s.rows, s.columns,
                                 s.columns % kEpilogueWidth == 0 && reinterpret_cast<uintptr_t>(got.data()) % 16 == 0};
    std::atomic<uint64_t> launches{0};
    KernelArgs call{};
    call.launches = &launches;
    launchProduct(call, "product", shape, plan, loader<FastA, A>(left, s.rows, s.sums),
                  loader<FastB, A>(right, s.columns, s.sums), partial);
    if (tile == 0) first = got;
    EXPECT(!std::memcmp(first.data(), got.data(), outputs * plan.splits * sizeof(float)));

    for (int m = 0; m < s.rows; ++m) {
      double rowSum = 0, gotRowSum = 0;
      for (int k = 0; k < s.sums; ++k) rowSum += element<FastA>(left, s, m, k, s.rows);
      for (int p = 0; p < plan.splits; ++p) gotRowSum += partial.rowSums[p * s.rows + m];
      EXPECT(std::abs(gotRowSum - rowSum) <= s.sums * 0x1p-22);
      for (int n = 0; n < s.columns; ++n) {
        double sum = 0, gotSum = 0;
        for (int k = 0; k < s.sums; ++k)
          sum += element<FastA>(left, s, m, k, s.rows) * element<FastB>(right, s, n, k, s.columns);
        for (int p = 0; p < plan.splits; ++p) gotSum += got[p * outputs + static_cast<size_t>(m) * s.columns + n];
        EXPECT(std::abs(gotSum - sum) <= s.sums * 0x1p-22);
      }
    }
  }
}

template <class A, class B>
void everyLayoutIsRight() {
  const Size sizes[] = {{1, 1, 1, 1, 0},     {33, 31, 65, 1, 0},  {17, 130, 33, 1, 1}, {136, 24, 72, 1, 0},
                        {24, 264, 40, 1, 8}, {40, 40, 200, 3, 0}, {5, 3, 130, 2, 0},   {3, 5, 0, 1, 0}};
  for (const Size& s : sizes) {
    everyTileIsRight<A, B, true, true>(s);
    everyTileIsRight<A, B, true, false>(s);
    if constexpr (std::is_same_v<A, B>) everyTileIsRight<A, B, false, false>(s);
  }
}

// Leaves results and their moments, [run][mean, squared deviations][columns].
struct Measured {
  static constexpr bool kRowSums = false, kMoments = true, kRowMoments = false, kRowFacts = false;
  float *results, *runs;
  int columns;

  const Measured& select(const BlockWork&) const { return *this; }
  template <int W>
  void operator()(int row, int column, float (&v)[W]) const {
    for (int i = 0; i < W; ++i) {
      v[i] = toFloat(fromFloat<bf16>(v[i]));
      if (column + i < columns) results[row * columns + column + i] = v[i];
    }
  }
  void moments(int row, int column, const RunMoments& of) const {
    EXPECT(row % kMomentRun == 0 && column < columns);
    float* to = runs + row / kMomentRun * 2 * columns + column;
    EXPECT(std::isnan(to[0]));  // left once
    to[0] = of.mean();
    to[columns] = of.deviation();
  }
};

template <class T>
void everyTileMeasuresAlike() {
  using Tiles = TilesFor<T>;
  const int sizes[][3] = {{32, 1, 24}, {96, 33, 40}, {160, 260, 8}};
  for (const auto& [rows, columns, sums] : sizes) {
    const auto a = drawn<T>(int64_t{rows} * sums), b = drawn<T>(int64_t{columns} * sums);
    const ProductShape shape = {rows, columns, sums, 1, kMomentRun};
    std::vector<float> first;
    for (int tile = 0; tile < Tiles::kCount; ++tile) {
      if (Tiles::kFacts[tile].rows % kMomentRun != 0) continue;
      ProductPlan plan = planProduct<Tiles>(shape, kH200);
      EXPECT(plan.tile.rows % kMomentRun == 0);
      plan.tile = Tiles::kFacts[tile];
      plan.index = tile;
      std::vector<float> results(static_cast<size_t>(rows) * columns, NAN);
      std::vector<float> runs(static_cast<size_t>(rows / kMomentRun) * 2 * columns, NAN);
      std::atomic<uint64_t> launches{0};
      KernelArgs call{};
      call.launches = &launches;
      launchProduct(call, "product", shape, plan, matrixRows<T>(a.data(), rows, sums),
                    matrixRows<T>(b.data(), columns, sums), Measured{results.data(), runs.data(), columns});
      if (first.empty()) first = runs;
      EXPECT(!std::memcmp(first.data(), runs.data(), runs.size() * sizeof(float)));
      for (int run = 0; run < rows / kMomentRun; ++run) {
        for (int n = 0; n < columns; ++n) {
          const float* column = results.data() + run * kMomentRun * columns + n;
          double mean = 0, deviation = 0;
          for (int r = 0; r < kMomentRun; ++r) mean += column[r * columns] / double{kMomentRun};
          for (int r = 0; r < kMomentRun; ++r) deviation += (column[r * columns] - mean) * (column[r * columns] - mean);
          const float* got = runs.data() + run * 2 * columns + n;
          EXPECT(std::abs(got[0] - mean) <= 0x1p-20 * std::sqrt(deviation));
          EXPECT(std::abs(got[columns] - deviation) <= 0x1p-18 * deviation);
        }
      }
    }
  }
}

template <class T>
void everyTileNormsRows() {
  for (const auto& [rows, columns, sums] :
       {std::array{1, 1, 8}, {3, 32, 24}, {37, 70, 40}, {131, 270, 8}, {2, 2100, 8}}) {
    const auto a = drawn<T>(int64_t{rows} * sums), b = drawn<T>(int64_t{columns} * sums);
    everyTileNormsAlike<TilesFor<T>>(
        rows, columns, sums, [&](const ProductShape& shape, const ProductPlan& plan, const auto& epilogue) {
          std::atomic<uint64_t> launches{0};
          KernelArgs call{};
          call.launches = &launches;
          launchProduct(call, "product", shape, plan, matrixRows<T>(a.data(), shape.rows, shape.sums),
                        matrixRows<T>(b.data(), shape.columns, shape.sums), epilogue);
        });
  }
}

}  // namespace

int main() {
  plansAreSensible();
  everyLayoutIsRight<float, float>();
  everyLayoutIsRight<float, bf16>();
  everyLayoutIsRight<bf16, bf16>();
  everyTileMeasuresAlike<float>();
  everyTileMeasuresAlike<bf16>();
  everyTileNormsRows<float>();
  everyTileNormsRows<bf16>();
}
