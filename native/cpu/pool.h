// A pool of threads that share small tiles. The caller works too, and waits only for tiles that somebody has begun: a
// helper that the system has not scheduled costs nothing.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace infinity {

class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls fn(tile) once for every tile in [0, tiles), in no particular order, and returns when all are done.
  template <class F>
  void parallelFor(int64_t tiles, const F& fn) {
    run(
        tiles, [](const void* ctx, int64_t tile) { (*static_cast<const F*>(ctx))(tile); }, &fn);
  }

 private:
  using TileFn = void (*)(const void* ctx, int64_t tile);
  void run(int64_t tiles, TileFn fn, const void* ctx);
  void workerLoop();
  void drainTiles();

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;

  // The job in progress. A worker registers in active_ before it looks at the fields, the owner waits for active_ == 0
  // before it changes them.
  std::atomic<uint64_t> generation_{0};
  std::atomic<bool> open_{false};
  std::atomic<int> active_{0};
  std::atomic<int> sleeping_{0};
  TileFn fn_ = nullptr;
  const void* ctx_ = nullptr;
  int64_t tiles_ = 0;
  std::atomic<int64_t> next_{0};
};

// Runs fn(tile, memory) on the pool; at most pool.threads() pieces of memory of `bytes` each are in use.
template <class F>
void parallelForWithMemory(Pool& pool, int64_t tiles, void* memory, size_t bytes, const F& fn) {
  int64_t next = 0;
  pool.parallelFor(pool.threads(), [&](int64_t worker) {
    char* mine = static_cast<char*>(memory) + worker * bytes;
    for (int64_t t; (t = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < tiles;) fn(t, mine);
  });
}

}  // namespace infinity
