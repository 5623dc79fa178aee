#include "tests/simt.h"

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 1 << 18;
#else
constexpr size_t kStackBytes = 1 << 16;
#endif
constexpr unsigned kWarp = 32;

// Saves the callee's registers on the running stack, leaves its top in *from, and goes on where `to` was left.
extern "C" void simtSwitch(void** from, void* to);
#if defined(__x86_64__)
__asm__(R"(
.text
.globl simtSwitch
.hidden simtSwitch
.type simtSwitch,@function
simtSwitch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simtSwitch,.-simtSwitch
)");
constexpr size_t kSavedWords = 6;
constexpr size_t kReturnWord = 6;
#elif defined(__aarch64__)
__asm__(R"(
.text
.globl simtSwitch
.hidden simtSwitch
.type simtSwitch,%function
simtSwitch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size simtSwitch,.-simtSwitch
)");
constexpr size_t kSavedWords = 20;
constexpr size_t kReturnWord = 11;
#else
#error "The emulation of CUDA knows x86-64 and aarch64."
#endif

enum class State : uint8_t { ready, atBarrier, inWarp, conditional, done };

struct Fibre {
  Position position;
  State state;
  uint32_t exchanges;
  void* top;
  unsigned char* stack;
  // Of a conditional wait.
  const char* what;
  bool (*ready)(void*);
  void* context;
};

struct Warp {
  uint32_t arrived[2];
  uint32_t lanes;  // that exist
  uint32_t exited;
  alignas(16) unsigned char slots[2][kWarp * kSlotBytes];
};

struct Launch {
  const char* name;
  void (*body)(void*);
  void* context;
};

std::mutex running;  // shared memory is static: one launch at a time in a process
Launch current;
std::vector<Fibre> fibres;
std::vector<Warp> warps;
// Never freed: they serve every later launch.
auto& stacks = *new std::vector<unsigned char*>;
alignas(128) unsigned char dynamic[kMostShared];
Fibre* self;
void* scheduler;
unsigned waiting, alive;
uint64_t blocks;

unsigned indexOf(const Fibre* f) { return static_cast<unsigned>(f - fibres.data()); }
Warp& warpOf(const Fibre* f) { return warps[indexOf(f) / kWarp]; }

#if defined(__SANITIZE_ADDRESS__)
void* schedulerFake;
const void* schedulerStack;
size_t schedulerBytes;
#endif

void leave(bool last) {
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(last ? nullptr : &fake, schedulerStack, schedulerBytes);
#endif
  simtSwitch(&self->top, scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, &schedulerStack, &schedulerBytes);
#endif
  (void)last;
}

[[noreturn]] void fibreMain() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &schedulerStack, &schedulerBytes);
#endif
  current.body(current.context);
  self->state = State::done;
  leave(true);
  std::abort();
}

void enter(Fibre& f) {
  self = &f;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&schedulerFake, f.stack, kStackBytes);
#endif
  simtSwitch(&scheduler, f.top);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(schedulerFake, nullptr, nullptr);
#endif
}

void prepare(Fibre& f, unsigned char* stack) {
  f.state = State::ready;
  f.exchanges = 0;
  f.stack = stack;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack, kStackBytes);  // the last frame of the thread before never returned
#endif
  // As if simtSwitch had been called by a function whose return address is fibreMain; the stack is 16-byte aligned at a
  // call.
  auto* words = reinterpret_cast<void**>(stack + kStackBytes) - 4 - kSavedWords;
  std::memset(words, 0, kSavedWords * sizeof(void*));
  words[kReturnWord] = reinterpret_cast<void*>(&fibreMain);
#if defined(__x86_64__)
  words[kReturnWord + 1] = nullptr;
#endif
  f.top = words;
}

bool runnable(Fibre& f) {
  if (f.state == State::ready) return true;
  if (f.state == State::conditional) {
    self = &f;
    return f.ready(f.context);
  }
  if (f.state != State::inWarp) return false;
  const Warp& w = warpOf(&f);
  return w.arrived[f.exchanges & 1] == w.lanes;
}

void runBlock(dim3 grid, dim3 block, dim3 at, unsigned turn) {
  const unsigned threads = block.x * block.y * block.z;
  fibres.resize(threads);
  warps.resize((threads + kWarp - 1) / kWarp);
  while (stacks.size() < threads) stacks.push_back(static_cast<unsigned char*>(std::aligned_alloc(64, kStackBytes)));
  for (unsigned w = 0; w < warps.size(); ++w) {
    const unsigned lanes = threads - w * kWarp < kWarp ? threads - w * kWarp : kWarp;
    warps[w].arrived[0] = warps[w].arrived[1] = warps[w].exited = 0;
    warps[w].lanes = lanes == kWarp ? 0xffffffffu : (1u << lanes) - 1;
  }
  for (unsigned i = 0; i < threads; ++i) {
    fibres[i].position = {dim3(i % block.x, i / block.x % block.y, i / (block.x * block.y)), at, block, grid,
                          i % kWarp};
    prepare(fibres[i], stacks[i]);
  }
  std::memset(dynamic, 0xff, sizeof dynamic);
  ++blocks;
  alive = threads;
  waiting = 0;
  // Runs the fibre until it waits. Whether it could.
  const auto advance = [](Fibre& f) {
    if (!runnable(f)) return false;
    f.state = State::ready;
    enter(f);
    if (f.state == State::done) {
      --alive;
      warpOf(&f).exited |= 1u << f.position.lane;
    }
    return true;
  };
  while (alive > 0) {
    bool progress = false;
    const unsigned order = turn % 4, half = (threads + 1) / 2;
    if (order == 3) {
      // Every warp as far as it gets, then the next.
      for (unsigned first = 0; first < threads; first += kWarp) {
        for (bool moved = true; moved; progress |= moved) {
          moved = false;
          for (unsigned i = first; i < threads && i < first + kWarp; ++i) moved |= advance(fibres[i]);
        }
      }
    } else {
      // Forwards, backwards, or every other thread first.
      for (unsigned n = 0; n < threads; ++n) {
        const unsigned i = order == 0 ? n : order == 1 ? threads - 1 - n : n < half ? 2 * n : 2 * (n - half) + 1;
        progress |= advance(fibres[i]);
      }
    }
    if (alive > 0 && waiting == alive) {
      waiting = 0;
      for (Fibre& f : fibres)
        if (f.state == State::atBarrier) f.state = State::ready;
      progress = true;
    }
    if (!progress) {
      // A conditional wait says most.
      Fibre* last = nullptr;
      for (Fibre& f : fibres)
        if (f.state != State::done && (!last || last->state != State::conditional)) last = &f;
      self = last;
      stop(self->state == State::conditional ? self->what
                                             : "waits for threads of its block or its warp that never come.");
    }
  }
}

}  // namespace

const Position& position() { return self->position; }
void* dynamicShared() { return dynamic; }
uint64_t blockNumber() { return blocks; }

void stop(const char* what) {
  const Position& p = self->position;
  std::fprintf(stderr, "CUDA emulation: kernel '%s', block (%u,%u,%u), thread (%u,%u,%u): %s\n", current.name,
               p.block.x, p.block.y, p.block.z, p.thread.x, p.thread.y, p.thread.z, what);
  std::abort();
}

void waitUntil(const char* what, bool (*ready)(void*), void* context) {
  self->what = what;
  self->ready = ready;
  self->context = context;
  self->state = State::conditional;
  leave(false);
}

void letOthersRun() { leave(false); }

void blockBarrier() {
  self->state = State::atBarrier;
  ++waiting;
  leave(false);
}

const unsigned char* exchange(unsigned mask, const void* mine, size_t bytes) {
  Fibre* me = self;
  Warp& w = warpOf(me);
  if ((mask & w.lanes) != w.lanes)
    stop("a warp operation with a mask that leaves lanes out; the emulation has full masks only.");
  if (w.exited) stop("a warp operation after lanes of the warp have ended.");
  const uint32_t buffer = me->exchanges & 1;
  if (bytes) std::memcpy(w.slots[buffer] + me->position.lane * kSlotBytes, mine, bytes);
  w.arrived[buffer] |= 1u << me->position.lane;
  // All lanes are past the exchange before this one: its buffer is free for the next.
  if (w.arrived[buffer] == w.lanes) w.arrived[buffer ^ 1] = 0;
  me->state = State::inWarp;
  leave(false);
  ++me->exchanges;
  return w.slots[buffer];
}

void runErased(const char* name, dim3 grid, dim3 block, size_t shared, void (*body)(void*), void* context) {
  const std::lock_guard<std::mutex> lock(running);
  current = {name, body, context};
  const unsigned threads = block.x * block.y * block.z;
  static Fibre nobody = {};
  self = &nobody;
  if (threads == 0 || threads > 1024 || block.z > 64) stop("a block of no or more than 1024 threads.");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535)
    stop("an empty grid, or one beyond 65535 in y or z.");
  if (shared > sizeof dynamic) stop("more dynamic shared memory than an SM has.");
  static unsigned turn = 0;  // goes on, so that a grid of one block meets every order too
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) runBlock(grid, block, dim3(x, y, z), turn++);
}

}  // namespace simt
