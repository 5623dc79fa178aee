#include "cpu/pool.h"

#include <atomic>
#include <memory>
#include <vector>

#include "tests/expect.h"

using infinity::Pool;

namespace {

void everyTileRunsOnce(int threads) {
  Pool pool(threads);
  EXPECT(pool.threads() == threads);
  for (int64_t tiles : {0, 1, 2, 3, 31, 1000}) {
    std::vector<std::atomic<int>> seen(tiles);
    pool.parallelFor(tiles, [&](int64_t tile) { seen[tile].fetch_add(1); });
    for (auto& count : seen) EXPECT(count.load() == 1);
  }
}

// What tiles wrote without synchronisation must be visible when parallelFor returns, job after job.
void resultsAreVisible(int threads) {
  Pool pool(threads);
  std::vector<int64_t> values(64);
  for (int64_t job = 0; job < 3000; ++job) {
    pool.parallelFor(64, [&](int64_t tile) { values[tile] = job + tile; });
    int64_t sum = 0;
    for (int64_t v : values) sum += v;
    EXPECT(sum == 64 * job + 63 * 32);
  }
}

void nestedJobsRunInPlace() {
  Pool pool(3);
  std::atomic<int> count{0};
  pool.parallelFor(8, [&](int64_t) { pool.parallelFor(8, [&](int64_t) { count.fetch_add(1); }); });
  EXPECT(count.load() == 64);
}

// Workers may still be spinning, falling asleep or asleep when the pool goes.
void poolsComeAndGo() {
  for (int i = 0; i < 50; ++i) {
    auto pool = std::make_unique<Pool>(3);
    std::atomic<int> count{0};
    if (i % 2) pool->parallelFor(4, [&](int64_t) { count.fetch_add(1); });
    EXPECT(count.load() == (i % 2 ? 4 : 0));
  }
}

}  // namespace

int main() {
  for (int threads : {1, 2, 4}) {
    everyTileRunsOnce(threads);
    resultsAreVisible(threads);
  }
  nestedJobsRunInPlace();
  poolsComeAndGo();
}
