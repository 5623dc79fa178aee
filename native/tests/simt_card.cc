// The card of the emulation: memory of this process, every command done when it returns.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cuda/card.h"

namespace infinity::cuda {

struct Card {
  DeviceFacts facts;
  uint32_t faults[kFaultWords];
};

Card* openCard(int ordinal, DeviceInfo* info, CallFailure* failure) {
  if (ordinal != 0) {
    failure->code = "DEVICE_UNAVAILABLE";
    std::snprintf(failure->message, sizeof failure->message, "The emulation has one card, number 0, not %d.", ordinal);
    return nullptr;
  }
  // Few processors: grids that depend on their number stay small. Shared memory as on compute capability 8.0.
  *info = {{4, 80, 166912, 40u << 20}, uint64_t{1} << 31, "host emulation"};
  return new Card{info->facts, {}};
}

void closeCard(Card* card) { delete card; }
const DeviceFacts* factsOf(const Card* card) { return &card->facts; }
Stream streamOf(Card*) { return nullptr; }
uint32_t* faultWord(Card* card, uint32_t request) { return &card->faults[request % kFaultWords]; }

void* allocate(Card*, size_t bytes) { return std::aligned_alloc(256, (bytes + 255) / 256 * 256); }
void release(Card*, void* block) { std::free(block); }
void upload(Card*, void* to, const void* host, size_t bytes, CallFailure*) { std::memcpy(to, host, bytes); }
void fill(Card*, void* to, unsigned char byte, size_t bytes, CallFailure*) { std::memset(to, byte, bytes); }

void finish(Card* card, uint32_t request, void* host, const void* from, size_t bytes, FinishFn told, void* context) {
  if (bytes) std::memcpy(host, from, bytes);
  uint32_t* word = faultWord(card, request);
  const uint32_t fault = *word;
  *word = 0;
  told(context, fault, nullptr);
}

void wait(Card*) {}
void copyNow(Card*, void* host, const void* from, size_t bytes) { std::memcpy(host, from, bytes); }

}  // namespace infinity::cuda
