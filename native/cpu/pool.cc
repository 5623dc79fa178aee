#include "cpu/pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/thread.h"

namespace infinity {
namespace {

// Long enough to bridge the gap between two commands, short enough not to steal a core from the event loop.
constexpr int kSpins = 2000;

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

thread_local bool insidePool = false;

}  // namespace

Pool::Pool(int threads) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { workerLoop(); });
}

Pool::~Pool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (auto& w : workers_) w.join();
}

void Pool::drainTiles() {
  for (;;) {
    const int64_t tile = next_.fetch_add(1, std::memory_order_relaxed);
    if (tile >= tiles_) return;
    fn_(ctx_, tile);
  }
}

void Pool::run(int64_t tiles, TileFn fn, const void* ctx) {
  if (tiles <= 0) return;
  if (tiles == 1 || workers_.empty() || insidePool) {
    for (int64_t t = 0; t < tiles; ++t) fn(ctx, t);
    return;
  }
  fn_ = fn;
  ctx_ = ctx;
  tiles_ = tiles;
  next_.store(0, std::memory_order_relaxed);
  open_.store(true, std::memory_order_seq_cst);
  generation_.fetch_add(1, std::memory_order_seq_cst);
  if (sleeping_.load(std::memory_order_seq_cst) > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  insidePool = true;
  drainTiles();
  insidePool = false;
  open_.store(false, std::memory_order_seq_cst);
  // A worker that is preempted in the middle of a tile needs the processor: after a short spin, offer ours.
  for (int spins = 0; active_.load(std::memory_order_seq_cst) != 0; ++spins) {
    if (spins < kSpins)
      relax();
    else
      std::this_thread::yield();
  }
}

void Pool::workerLoop() {
  yieldToEventLoop();
  insidePool = true;
  uint64_t seen = 0;
  for (;;) {
    int spins = 0;
    while (generation_.load(std::memory_order_seq_cst) == seen && spins < kSpins) {
      relax();
      ++spins;
    }
    if (generation_.load(std::memory_order_seq_cst) == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleeping_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, [&] { return stop_ || generation_.load(std::memory_order_seq_cst) != seen; });
      sleeping_.fetch_sub(1, std::memory_order_seq_cst);
      if (stop_) return;
    }
    seen = generation_.load(std::memory_order_seq_cst);
    active_.fetch_add(1, std::memory_order_seq_cst);
    if (open_.load(std::memory_order_seq_cst)) drainTiles();
    active_.fetch_sub(1, std::memory_order_seq_cst);
  }
}

}  // namespace infinity
