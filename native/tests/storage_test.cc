#include "core/storage.h"

#include <cstdint>
#include <cstring>
#include <vector>

#include "cpu/backend.h"
#include "tests/expect.h"

using infinity::CoreError;
using infinity::CpuBackend;
using infinity::Storage;
using infinity::StorageStats;
using infinity::test::codeOf;

namespace {

constexpr size_t kLimit = size_t{1} << 20;

void blocksAreAlignedAndApart() {
  CpuBackend backend("generic", 1);
  Storage storage(backend, kLimit, false, false, [] {});
  std::vector<uint32_t> handles;
  for (size_t bytes : {0, 1, 63, 64, 65, 511, 513, 4097, 100000}) {
    const uint32_t handle = storage.allocate(bytes);
    void* p = storage.resolve(handle, 0, bytes);
    EXPECT(reinterpret_cast<uintptr_t>(p) % 64 == 0);
    std::memset(p, static_cast<int>(handles.size()), bytes);  // ASan: the block is as large as was asked
    handles.push_back(handle);
  }
  EXPECT(storage.stats().liveTensors == handles.size());
  for (uint32_t handle : handles) storage.release(handle);
  const StorageStats stats = storage.stats();
  EXPECT(stats.liveTensors == 0 && stats.liveBytes == 0 && stats.cachedBytes > 0 && stats.peakBytes > 100000);
}

void releasedBlocksAreUsedAgain() {
  CpuBackend backend("generic", 1);
  Storage storage(backend, kLimit, false, false, [] {});
  const uint32_t first = storage.allocate(1000);
  void* address = storage.resolve(first, 0, 1000);
  storage.release(first);
  const uint32_t second = storage.allocate(990);  // the same size class
  EXPECT(storage.resolve(second, 0, 990) == address);
  EXPECT(second != first);
  EXPECT(codeOf([&] { storage.resolve(first, 0, 1); }) == "DISPOSED");
  EXPECT(codeOf([&] { storage.release(first); }) == "DISPOSED");
}

void viewsStayInside() {
  CpuBackend backend("generic", 1);
  Storage storage(backend, kLimit, false, false, [] {});
  const uint32_t handle = storage.allocate(100);
  EXPECT(codeOf([&] { storage.resolve(handle, 60, 40); }) == "none");
  EXPECT(codeOf([&] { storage.resolve(handle, 60, 41); }) == "INTERNAL");
  EXPECT(codeOf([&] { storage.resolve(handle, ~uint64_t{0}, 2); }) == "INTERNAL");
}

void theLimitHolds() {
  int drains = 0;
  CpuBackend backend("generic", 1);
  Storage storage(backend, kLimit, false, false, [&] { ++drains; });
  const uint32_t half = storage.allocate(kLimit / 2);
  double needed = 0, free = 0;
  try {
    storage.allocate(kLimit);
  } catch (const CoreError& error) {
    needed = error.needed;
    free = error.free;
  }
  EXPECT(needed == kLimit && free > 0 && free <= kLimit / 2.0);
  EXPECT(storage.stats().liveTensors == 1);
  // Cached blocks of another class give way, after the queue is idle.
  storage.release(half);
  EXPECT(drains == 0);
  EXPECT(codeOf([&] { storage.allocate(kLimit / 4 * 3); }) == "none");
  EXPECT(drains == 1 && storage.stats().cachedBytes == 0);
}

void scratchIsFreeForTheNextCommand() {
  CpuBackend backend("generic", 1);
  Storage storage(backend, kLimit, false, false, [] {});
  void* scratch = storage.scratch(5000);
  std::memset(scratch, 1, 5000);
  EXPECT(storage.scratch(5000) == scratch);
  EXPECT(storage.stats().liveBytes == 0 && storage.stats().peakBytes >= 5000);
}

#if !defined(__SANITIZE_ADDRESS__)  // which ends the program at the first such write
void guardsNoticeOverruns() {
  CpuBackend backend("generic", 1);
  Storage storage(backend, kLimit, true, false, [] {});
  const uint32_t a = storage.allocate(33), b = storage.allocate(33);
  EXPECT(storage.damagedGuards() == 0);
  static_cast<char*>(storage.resolve(a, 0, 33))[33] = 0;
  EXPECT(storage.damagedGuards() == 1);
  static_cast<char*>(storage.resolve(b, 0, 33))[-1] = 0;
  EXPECT(storage.damagedGuards() == 2);
}
#endif

void bytesHeldFromTheSystemAddUp() {
  CpuBackend backend("generic", 1);
  Storage storage(backend, kLimit, false, false, [] {});
  storage.release(storage.allocate(4096));
  EXPECT(storage.takeExternalDelta() >= 4096);
  EXPECT(storage.takeExternalDelta() == 0);
  storage.trim();
  EXPECT(storage.takeExternalDelta() <= -4096);
}

void aDryStorageCountsWithoutTaking() {
  CpuBackend backend("generic", 1);
  Storage wet(backend, kLimit, false, false, [] {}), dry(backend, kLimit, true, true, [] {});
  for (Storage* s : {&wet, &dry}) {
    const uint32_t a = s->allocate(5000), b = s->allocate(70000);
    s->release(a);
    s->scratch(9000);
    EXPECT(s->resolve(b, 0, 70000) != nullptr);
  }
  EXPECT(dry.stats().liveBytes == wet.stats().liveBytes && dry.stats().peakBytes == wet.stats().peakBytes);
  EXPECT(dry.takeExternalDelta() == 0);
  dry.release(dry.allocate(size_t{1} << 40));
  EXPECT(dry.stats().peakBytes > size_t{1} << 40);
  dry.resetPeak();
  EXPECT(dry.stats().peakBytes == dry.stats().liveBytes);
}

}  // namespace

int main() {
  blocksAreAlignedAndApart();
  releasedBlocksAreUsedAgain();
  viewsStayInside();
  theLimitHolds();
  scratchIsFreeForTheNextCommand();
#if !defined(__SANITIZE_ADDRESS__)
  guardsNoticeOverruns();
#endif
  bytesHeldFromTheSystemAddUp();
  aDryStorageCountsWithoutTaking();
}
