// Products of Hopper's warpgroups under the emulation of its instructions: every tile on every layout of operands
// against a double loop and against the other tiles, bit for bit; and the emulation itself, where a mistake must show.
#include "tests/simt.cc"
// Above: what the headers below take from the CUDA language.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "cuda/gemm_hopper.cuh"
#include "tests/expect.h"
#include "tests/plans.h"
#include "tests/row_norms.h"

namespace {

using namespace infinity;
using namespace infinity::cuda;

uint32_t state;
float draw() {
  state = state * 1664525 + 1013904223;
  return static_cast<float>(static_cast<int32_t>(state >> 23)) / 256 - 1;  // nine bits, of which bf16 has eight
}
// bf16 at a multiple of 16 bytes, as matrices of a card are.
struct Matrix {
  std::vector<Pack<bf16, 8>> memory;
  bf16* data;
  explicit Matrix(int64_t n) : memory(static_cast<size_t>(n + 7) / 8), data(memory.data()->v) {
    for (int64_t i = 0; i < n; ++i) data[i] = fromFloat<bf16>(draw());
  }
};
template <bool Fast>
auto loader(const Matrix& m, int rows, int sums) {
  if constexpr (Fast)
    return matrixRows<bf16>(m.data, rows, sums);
  else
    return matrixColumns<bf16>(m.data, rows, sums);
}
template <bool Fast>
double element(const Matrix& of, int m, int k, int rows, int sums) {
  return toFloat(of.data[Fast ? int64_t{m} * sums + k : int64_t{k} * rows + m]);
}

struct Finished {
  static constexpr bool kRowSums = false, kMoments = false, kRowMoments = false, kRowFacts = false;
  Floats y;
  int columns;
  __device__ const Finished& select(const BlockWork&) const { return *this; }
  template <int W>
  __device__ void operator()(int row, int column, float (&v)[W]) const {
    y.write(int64_t{row} * columns + column, columns % W == 0, columns - column, v);
  }
};

struct Size {
  int rows, columns, sums, splits;
  uint32_t processors;  // few: a block takes several tiles
};

template <bool FastA, bool FastB>
void everyTileIsRight(const Size& s) {
  const Matrix a(int64_t{s.rows} * s.sums), b(int64_t{s.columns} * s.sums);
  const auto left = loader<FastA>(a, s.rows, s.sums);
  const auto right = loader<FastB>(b, s.columns, s.sums);
  using Tiles = WarpgroupTilesFor<decltype(right)>;
  const ProductShape shape = {s.rows, s.columns, s.sums};
  DeviceFacts card = kH200;
  card.processors = s.processors;
  const size_t outputs = static_cast<size_t>(s.rows) * s.columns;
  std::vector<double> want(outputs), wantRows(s.rows);
  for (int m = 0; m < s.rows; ++m) {
    for (int k = 0; k < s.sums; ++k) wantRows[m] += element<FastA>(a, m, k, s.rows, s.sums);
    for (int n = 0; n < s.columns; ++n)
      for (int k = 0; k < s.sums; ++k)
        want[static_cast<size_t>(m) * s.columns + n] +=
            element<FastA>(a, m, k, s.rows, s.sums) * element<FastB>(b, n, k, s.columns, s.sums);
  }
  std::vector<float> first;
  for (int tile = 0; tile < Tiles::kCount; ++tile) {
    ProductPlan plan = planProduct<Tiles>(shape, card, s.splits);
    plan.tile = Tiles::kFacts[tile];
    plan.index = tile;
    plan.blocks = ceilDiv(s.rows, plan.tile.rows) * ceilDiv(s.columns, plan.tile.columns) * plan.splits;
    std::vector<float> got(plan.splits * (outputs + s.rows), NAN);
    std::atomic<uint64_t> launches{0};
    CallFailure failure;
    KernelArgs call{};
    call.launches = &launches;
    call.device = &card;
    call.failure = &failure;
    if constexpr (FastA) {
      launchWarpgroups(call, "product", shape, plan, left, right, Finished{{got.data(), false}, s.columns});
    } else {
      const PartialSums partial = {got.data(), got.data() + plan.splits * outputs, s.rows, s.columns,
                                   s.columns % kEpilogueWidth == 0};
      launchWarpgroups(call, "product", shape, plan, left, right, partial);
      for (int m = 0; m < s.rows; ++m) {
        double sum = 0;
        for (int p = 0; p < plan.splits; ++p) sum += partial.rowSums[p * s.rows + m];
        EXPECT(std::abs(sum - wantRows[m]) <= s.sums * 0x1p-22);
      }
    }
    EXPECT(!failure.code && launches == 1);
    if (tile == 0) first = got;
    EXPECT(!std::memcmp(first.data(), got.data(), outputs * plan.splits * sizeof(float)));
    for (size_t i = 0; i < outputs; ++i) {
      double sum = 0;
      for (int p = 0; p < plan.splits; ++p) sum += got[p * outputs + i];
      EXPECT(std::abs(sum - want[i]) <= s.sums * 0x1p-22);
    }
  }
}

// Few blocks: each takes several tiles.
void everyTileNormsRows(int rows, int columns, int sums) {
  const Matrix a(int64_t{rows} * sums), b(int64_t{columns} * sums);
  DeviceFacts card = kH200;
  card.processors = 2;
  everyTileNormsAlike<TilesWarpgroups>(rows, columns, sums,
                                       [&](const ProductShape& shape, const ProductPlan& plan, const auto& epilogue) {
                                         std::atomic<uint64_t> launches{0};
                                         CallFailure failure;
                                         KernelArgs call{};
                                         call.launches = &launches;
                                         call.device = &card;
                                         call.failure = &failure;
                                         launchWarpgroups(call, "product", shape, plan, loader<true>(a, rows, sums),
                                                          loader<true>(b, columns, sums), epilogue);
                                         EXPECT(!failure.code && launches == 1);
                                       });
}

void plansAreSensible() {
  EXPECT(planned<TilesWarpgroups>({8192, 8192, 2048}, 128, 256));
  EXPECT(planned<TilesWarpgroups>({1280, 1280, 2048}, 128, 128));
  EXPECT(planned<TilesWarpgroups>({1024, 1024, 2048}, 128, 64));
  EXPECT(planned<TilesWarpgroups>({2, 2048, 2048}, 64, 64));
  for (const TileFacts& tile : TilesWarpgroups::kFacts) EXPECT(tile.sharedBytes <= kH200.sharedBytes);
}

// Whether the process that runs this ends with these words.
bool ends(const char* words, void (*run)()) {
  int ends[2];
  if (pipe(ends)) return false;
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 2);
    close(ends[0]);
    run();
    _exit(0);
  }
  close(ends[1]);
  std::string said;
  char part[256];
  for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) said.append(part, static_cast<size_t>(n));
  close(ends[0]);
  int status;
  waitpid(child, &status, 0);
  const bool right = WIFSIGNALED(status) && said.find(words) != std::string::npos;
  if (!right) std::fprintf(stderr, "expected '%s' but it said: %s\n", words, said.c_str());
  return right;
}
template <class F>
void inBlock(unsigned threads, F&& body) {
  simt::run("mistake", dim3(1), dim3(threads), 4096, body);
}
uint64_t* barrierOfBlock(uint32_t arrivals) {
  uint64_t* const barrier = dynamicShared<uint64_t>();
  if (threadIdx.x == 0) initBarrier(barrier, arrivals);
  __syncthreads();
  return barrier;
}

void mistakesShow() {
  EXPECT(ends("not initialised", [] { inBlock(32, [] { waitBarrier(dynamicShared<uint64_t>(), 0); }); }));
  EXPECT(ends("nobody completes", [] { inBlock(32, [] { waitBarrier(barrierOfBlock(1), 0); }); }));
  EXPECT(ends("nobody completes", [] {
    inBlock(32, [] {
      uint64_t* const barrier = barrierOfBlock(1);
      if (threadIdx.x == 0) arriveExpecting(barrier, 128);  // bytes that no copy brings
      waitBarrier(barrier, 0);
    });
  }));
  EXPECT(ends("more threads arrive", [] {
    inBlock(32, [] {
      uint64_t* const barrier = barrierOfBlock(2);
      if (threadIdx.x < 2) arriveExpecting(barrier, 64);
      if (threadIdx.x == 2) arrive(barrier);
    });
  }));
  EXPECT(ends("never come to a wgmma", [] {
    inBlock(128, [] {
      if (threadIdx.x < 96) openProducts();
    });
  }));
  EXPECT(ends("different operands", [] {
    inBlock(128, [] {
      float sums[4] = {};
      openProducts();
      multiply<8, false, false>(sums, threadIdx.x, 0, false);
    });
  }));
  EXPECT(ends("without a wgmma.fence", [] {
    inBlock(128, [] {
      float sums[4] = {};
      multiply<8, false, false>(sums, 0, 0, false);
    });
  }));
  EXPECT(ends("outside dynamic shared memory", [] {
    inBlock(128, [] {
      float sums[4] = {};
      openProducts();
      multiply<8, false, false>(sums, 0, 0, false);
      commitProducts();
      waitProducts<0>();
    });
  }));
}

void registersAreOutOfReach() {
  inBlock(128, [] {
    uint32_t* const ones = dynamicShared<uint32_t>();
    for (unsigned i = threadIdx.x; i < 1024; i += 128) ones[i] = 0x3f803f80;
    __syncthreads();
    float sums[4] = {1, 1, 1, 1};
    const uint64_t matrix = matrixDescriptor(sharedAddress(ones), 128, 256, MatrixSwizzle::none);
    openProducts();
    multiply<8, false, false>(sums, matrix, matrix, true);
    EXPECT(std::isnan(sums[0]));
    commitProducts();
    waitProducts<1>();
    EXPECT(std::isnan(sums[3]));
    waitProducts<0>();
    EXPECT(sums[0] == 17 && sums[3] == 17);
  });
}

}  // namespace

int main() {
  plansAreSensible();
  registersAreOutOfReach();
  mistakesShow();
  // One row; ragged edges; several tiles of a block; rings that go round, within a tile and over several.
  everyTileIsRight<true, true>({1, 8, 8, 1, 4});
  everyTileIsRight<true, true>({130, 264, 72, 1, 3});
  everyTileIsRight<true, true>({70, 33, 840, 1, 2});
  everyTileIsRight<true, true>({130, 264, 200, 1, 1});
  everyTileIsRight<true, false>({130, 264, 72, 1, 3});
  everyTileIsRight<true, false>({9, 136, 584, 1, 1});
  everyTileIsRight<false, false>({136, 264, 72, 1, 3});
  everyTileIsRight<false, false>({72, 16, 600, 3, 2});
  everyTileNormsRows(5, 40, 8);
  everyTileNormsRows(130, 300, 200);
  everyTileNormsRows(70, 72, 520);
}
