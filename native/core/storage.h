// The caching allocator and the handle table of one device. Used from the JavaScript thread only: the queue runs in
// order, so a block released when a command is submitted may be handed to any later command without waiting.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/backend.h"

namespace infinity {

struct StorageStats {
  uint64_t liveTensors = 0;
  uint64_t liveBytes = 0;
  uint64_t cachedBytes = 0;
  uint64_t peakBytes = 0;  // largest liveBytes so far
  uint64_t limitBytes = 0;
};

// Memory of recorded commands. They write the same blocks whenever they run, so what is released while they are being
// recorded serves their later ones only, until nobody runs them any more.
struct Arena {
  std::unordered_map<size_t, std::vector<void*>> free;  // by size class
  uint64_t bytes = 0;                                   // taken so far
  bool open = true;
};
using ArenaPtr = std::shared_ptr<Arena>;

class Storage {
 public:
  // `drain` waits until the queue is idle: only then may cached blocks go back to the system. A `dry` storage counts
  // blocks without taking any: its addresses must not be followed, and its limit is told but does not hold.
  Storage(Backend& backend, size_t limit, bool guard, bool dry, std::function<void()> drain);
  ~Storage();
  Storage(const Storage&) = delete;

  // Returns a handle; throws CoreError OUT_OF_MEMORY with needed and free bytes.
  uint32_t allocate(size_t bytes);
  void release(uint32_t handle);
  // Bounds-checked address of a view; throws CoreError DISPOSED or INTERNAL.
  void* resolve(uint32_t handle, uint64_t offset, uint64_t bytes) const;
  // Memory between two submissions: usable by commands already submitted, free for later ones.
  void* scratch(size_t bytes);
  // From now on memory comes from this arena, and from the device's own again after null.
  void use(ArenaPtr arena) { arena_ = std::move(arena); }
  ArenaPtr openArena();
  // What it holds serves any later command; tensors that still live do so when they go.
  void closeArena(const ArenaPtr& arena);
  // Number of live blocks whose guard zones were overwritten. Call only when the queue is idle.
  uint32_t damagedGuards() const;
  void trim();
  // The peak starts anew from what lives now.
  void resetPeak() { peakBytes_ = liveBytes_; }
  StorageStats stats() const;
  // Change of the bytes of this process's memory that are held since the last call, for V8's accounting.
  int64_t takeExternalDelta();

 private:
  struct Slot {
    void* block = nullptr;
    size_t bytes = 0;    // asked for
    size_t rounded = 0;  // size class
    uint32_t generation = 1;
    bool live = false;
    ArenaPtr arena;
  };
  // A block for a tensor or for scratch, and where it goes when it is no longer needed.
  void* take(size_t rounded, size_t asked);
  void give(void* block, size_t rounded, Arena* arena);
  void* takeBlock(size_t rounded, size_t asked);
  void* takeNew(size_t rounded);
  void giveBlock(void* block, size_t rounded);
  void freeBlock(void* block) const;
  const Slot& slot(uint32_t handle) const;

  Backend& backend_;
  size_t limit_;
  bool guard_, dry_;
  std::function<void()> drain_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> freeSlots_;
  std::unordered_map<size_t, std::vector<void*>> cache_;
  std::vector<ArenaPtr> arenas_;  // the open ones
  ArenaPtr arena_;                // of what is being recorded
  uint64_t liveTensors_ = 0, liveBytes_ = 0, cachedBytes_ = 0, peakBytes_ = 0;
  int64_t externalDelta_ = 0;
  uintptr_t nextDry_ = 4096;
};

}  // namespace infinity
