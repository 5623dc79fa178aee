#include "core/storage.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/error.h"

// Under AddressSanitizer the guard zones are closed: whoever reads or writes them is named on the spot.
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) (static_cast<void>(address))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) (static_cast<void>(address))
#endif

namespace infinity {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t kGuard = 64;
constexpr unsigned char kGuardByte = 0xA5;
constexpr uint32_t kSlotBits = 22;

// Eight classes per power of two: at most 12.5 % waste, and shapes that repeat meet the same class again.
size_t roundSize(size_t bytes) {
  if (bytes <= 512) return (bytes + kAlign - 1) / kAlign * kAlign;
  size_t step = 64;
  while (step * 16 <= bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

}  // namespace

Storage::Storage(Backend& backend, size_t limit, bool guard, bool dry, std::function<void()> drain)
    : backend_(backend), limit_(limit), guard_(guard && !dry), dry_(dry), drain_(std::move(drain)) {}

Storage::~Storage() {
  for (const ArenaPtr& arena : arenas_)
    for (auto& [size, blocks] : arena->free)
      for (void* b : blocks) freeBlock(b);
  for (auto& [size, blocks] : cache_)
    for (void* b : blocks) freeBlock(b);
  for (const Slot& s : slots_)
    if (s.live) freeBlock(s.block);
}

void Storage::freeBlock(void* block) const {
  if (!dry_) backend_.release(block);
}

void* Storage::takeBlock(size_t rounded, size_t asked) {
  auto it = cache_.find(rounded);
  if (it != cache_.end() && !it->second.empty()) {
    void* b = it->second.back();
    it->second.pop_back();
    cachedBytes_ -= rounded;
    return b;
  }
  if (dry_) {
    nextDry_ += (rounded + kAlign - 1) / kAlign * kAlign;
    return reinterpret_cast<void*>(nextDry_);
  }
  void* b = takeNew(rounded);
  if (!b) {
    const size_t free = std::min<size_t>(limit_ > liveBytes_ ? limit_ - liveBytes_ : 0, backend_.freeMemory());
    throw CoreError("OUT_OF_MEMORY",
                    "Expected " + std::to_string(asked) + " bytes of tensor memory but only " + std::to_string(free) +
                        " of " + std::to_string(limit_) + " are free.",
                    static_cast<double>(asked), static_cast<double>(free));
  }
  externalDelta_ += static_cast<int64_t>(rounded);
  return b;
}

// Null where there is no memory even without what is kept for later: beyond the limit, or because a card is shared.
void* Storage::takeNew(size_t rounded) {
  if (liveBytes_ + rounded > limit_) return nullptr;
  if (liveBytes_ + cachedBytes_ + rounded <= limit_)
    if (void* b = backend_.allocate(rounded)) return b;
  if (!cachedBytes_) return nullptr;
  trim();
  return backend_.allocate(rounded);
}

void Storage::giveBlock(void* block, size_t rounded) {
  cache_[rounded].push_back(block);
  cachedBytes_ += rounded;
}

// What an arena has taken counts as live until it is closed: nobody else can use it.
void* Storage::take(size_t rounded, size_t asked) {
  if (arena_) {
    auto& blocks = arena_->free[rounded];
    // Guard zones are drawn once and lie where a tensor ends: a block that served two would look damaged.
    if (!blocks.empty() && !guard_) {
      void* b = blocks.back();
      blocks.pop_back();
      return b;
    }
  }
  void* b = takeBlock(rounded, asked);
  if (arena_) arena_->bytes += rounded;
  liveBytes_ += rounded;
  peakBytes_ = std::max(peakBytes_, liveBytes_);
  return b;
}

void Storage::give(void* block, size_t rounded, Arena* arena) {
  if (arena && arena->open) {
    arena->free[rounded].push_back(block);
    return;
  }
  giveBlock(block, rounded);
  liveBytes_ -= rounded;
}

ArenaPtr Storage::openArena() {
  arenas_.push_back(std::make_shared<Arena>());
  return arenas_.back();
}

void Storage::closeArena(const ArenaPtr& arena) {
  arena->open = false;
  for (auto& [size, blocks] : arena->free)
    for (void* b : blocks) give(b, size, nullptr);
  arena->free.clear();
  std::erase(arenas_, arena);
}

uint32_t Storage::allocate(size_t bytes) {
  const size_t rounded = roundSize(std::max<size_t>(bytes, 1) + (guard_ ? 2 * kGuard : 0));
  if (freeSlots_.empty() && slots_.size() >= (1u << kSlotBits))
    throw CoreError("OUT_OF_MEMORY", "Too many live tensors on one device.");
  void* block = take(rounded, bytes);
  ++liveTensors_;
  uint32_t index;
  if (freeSlots_.empty()) {
    index = static_cast<uint32_t>(slots_.size());
    slots_.emplace_back();
  } else {
    index = freeSlots_.back();
    freeSlots_.pop_back();
  }
  Slot& s = slots_[index];
  s.block = block;
  s.bytes = bytes;
  s.rounded = rounded;
  s.live = true;
  s.arena = arena_;
  if (guard_) {
    // Earlier commands may still be running on a recycled block: its zones can only be drawn when they are done.
    drain_();
    auto* p = static_cast<unsigned char*>(block);
    ASAN_UNPOISON_MEMORY_REGION(p, rounded);
    backend_.fillNow(p, kGuardByte, kGuard);
    backend_.fillNow(p + kGuard + bytes, kGuardByte, kGuard);
    ASAN_POISON_MEMORY_REGION(p, kGuard);
    ASAN_POISON_MEMORY_REGION(p + kGuard + bytes, rounded - kGuard - bytes);
  }
  return (s.generation << kSlotBits) | index;
}

const Storage::Slot& Storage::slot(uint32_t handle) const {
  const uint32_t index = handle & ((1u << kSlotBits) - 1);
  if (index >= slots_.size() || !slots_[index].live || slots_[index].generation != handle >> kSlotBits)
    throw CoreError("DISPOSED", "Expected a live tensor but received one that was already disposed.");
  return slots_[index];
}

void Storage::release(uint32_t handle) {
  Slot& s = const_cast<Slot&>(slot(handle));
  s.live = false;
  s.generation = s.generation % ((1u << (32 - kSlotBits)) - 1) + 1;
  give(s.block, s.rounded, s.arena.get());
  s.arena = nullptr;
  --liveTensors_;
  freeSlots_.push_back(handle & ((1u << kSlotBits) - 1));
}

void* Storage::resolve(uint32_t handle, uint64_t offset, uint64_t bytes) const {
  const Slot& s = slot(handle);
  if (offset > s.bytes || bytes > s.bytes - offset)
    throw CoreError("INTERNAL", "A view of " + std::to_string(bytes) + " bytes at " + std::to_string(offset) +
                                    " does not fit a storage of " + std::to_string(s.bytes) + " bytes.");
  return static_cast<char*>(s.block) + (guard_ ? kGuard : 0) + offset;
}

void* Storage::scratch(size_t bytes) {
  const size_t rounded = roundSize(bytes);
  void* b = take(rounded, bytes);
  ASAN_UNPOISON_MEMORY_REGION(b, rounded);  // it may have been a guarded tensor
  give(b, rounded, arena_.get());
  return b;
}

uint32_t Storage::damagedGuards() const {
  if (!guard_) return 0;
  uint32_t damaged = 0;
  for (const Slot& s : slots_) {
    if (!s.live) continue;
    auto* p = static_cast<unsigned char*>(s.block);
    bool ok = true;
    ASAN_UNPOISON_MEMORY_REGION(p, s.rounded);
    unsigned char zones[2 * kGuard];
    backend_.copyNow(zones, p, kGuard);
    backend_.copyNow(zones + kGuard, p + kGuard + s.bytes, kGuard);
    for (unsigned char byte : zones) ok &= byte == kGuardByte;
    ASAN_POISON_MEMORY_REGION(p, kGuard);
    ASAN_POISON_MEMORY_REGION(p + kGuard + s.bytes, s.rounded - kGuard - s.bytes);
    damaged += !ok;
  }
  return damaged;
}

void Storage::trim() {
  drain_();
  for (auto& [size, blocks] : cache_)
    for (void* b : blocks) freeBlock(b);
  cache_.clear();
  if (!dry_) externalDelta_ -= static_cast<int64_t>(cachedBytes_);
  cachedBytes_ = 0;
  if (!dry_) backend_.trimmed();
}

StorageStats Storage::stats() const { return {liveTensors_, liveBytes_, cachedBytes_, peakBytes_, limit_}; }

int64_t Storage::takeExternalDelta() {
  const int64_t d = externalDelta_;
  externalDelta_ = 0;
  return backend_.hostMemory() ? d : 0;
}

}  // namespace infinity
