#include "core/thread.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#endif

namespace infinity {

#if defined(__linux__)
namespace {

// Layout of the system call; the C library has no declaration of it.
struct SchedulingAttributes {
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime;
  uint64_t deadline;
  uint64_t period;
};

constexpr uint32_t kOrdinary = 0;
// A thread that wakes for a tile does not displace whoever runs there, be it the event loop or another process: the one
// that asked for help is at work already.
constexpr uint32_t kBatch = 3;
// A tenth of the weight of an ordinary thread. A thread that has just computed, as the event loop after a burst of
// commands, is behind the others and waits until they have had as much, by weight: little. A tenth is still no
// starvation.
constexpr int32_t kNice = 10;
// A thread that wakes displaces one whose slice is longer, without waiting for the next tick (Linux 6.12; earlier ones
// pass over it). 100 ms is the longest there is.
constexpr uint64_t kSliceNanoseconds = 100'000'000;

}  // namespace

void yieldToEventLoop() {
  SchedulingAttributes attributes{};
  // Where a call is refused (a sandbox), the threads are equals and nothing else changes.
  if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0 || attributes.policy != kOrdinary) return;
  attributes.policy = kBatch;
  attributes.nice = std::min(attributes.nice + kNice, 19);
  attributes.runtime = kSliceNanoseconds;
  (void)syscall(SYS_sched_setattr, 0, &attributes, 0);
}
#else
void yieldToEventLoop() {}
#endif

}  // namespace infinity
