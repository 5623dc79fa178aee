// The card of the emulation: memory of this process, every command done when it returns. SIMT_MEMORY gives it so many
// bytes; without it there are 2^31. SIMT_ARCHITECTURE=90 makes it one of compute capability 9.0 instead of 8.0. There
// is no time here: what SIMT_FASTEST names takes half as long as the rest.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>

#include "cuda/card.h"
#include "cuda/fault.h"
#include "cuda/route.h"

namespace infinity::cuda {

struct Graph {
  std::vector<std::function<void()>> work;
  uint32_t fault = 0;
  uint64_t launches = 0;
};

struct Card {
  DeviceFacts facts;
  FaultWords faultWords;
  uint32_t faults[FaultWords::kCount];
  size_t memory;
  std::atomic<size_t> taken;  // the queue's thread looks whether there is room to record
  std::unordered_map<void*, size_t> blocks;
  std::atomic<uint64_t> launches{0};
  std::string fastest;
  std::unique_ptr<ProductRoutes> routes;
  simt::Stream stream;
  std::unique_ptr<Graph> recording;
};

Card* openCard(int ordinal, DeviceInfo* info, CallFailure* failure) {
  if (ordinal != 0) {
    failure->code = "DEVICE_UNAVAILABLE";
    std::snprintf(failure->message, sizeof failure->message, "The emulation has one card, number 0, not %d.", ordinal);
    return nullptr;
  }
  // Few processors: grids that depend on their number stay small.
  const char *memory = std::getenv("SIMT_MEMORY"), *fastest = std::getenv("SIMT_FASTEST");
  const uint64_t bytes = memory ? std::strtoull(memory, nullptr, 10) : uint64_t{1} << 31;
  const char* architecture = std::getenv("SIMT_ARCHITECTURE");
  const bool hopper = architecture && !std::strcmp(architecture, "90");
  *info = {{4, hopper ? 90u : 80u, hopper ? 232448u : 166912u, 40u << 20}, bytes, "host emulation"};
  return new Card{info->facts, {}, {}, bytes, 0, {}, {}, fastest ? fastest : "", {}, {}, {}};
}

void closeCard(Card* card) {
  card->routes.reset();
  delete card;
}
const DeviceFacts* factsOf(const Card* card) { return &card->facts; }
void makeCurrent(Card*) {}
Stream streamOf(Card* card) { return &card->stream; }
uint32_t* faultWord(Card* card, uint32_t request) {
  if (card->recording) return &card->recording->fault;
  const FaultWords::Word word = card->faultWords.of(request);
  if (word.clear) card->faults[word.index] = 0;
  return &card->faults[word.index];
}
std::atomic<uint64_t>* launchCount(Card* card) { return &card->launches; }
std::unique_ptr<ProductRoutes>& productRoutes(Card* card) { return card->routes; }

bool isRecording(Card* card) { return card->recording != nullptr; }
double timeOf(Card* card, const char* what, int, void (*put)(const void*), const void* context) {
  put(context);
  return card->fastest == what ? 1 : 2;
}

void* allocate(Card* card, size_t bytes) {
  if (bytes > freeMemory(card)) return nullptr;
  void* block = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (!block) return nullptr;
  card->blocks.emplace(block, bytes);
  card->taken += bytes;
  return block;
}

void release(Card* card, void* block) {
  const auto it = card->blocks.find(block);
  card->taken -= it->second;
  card->blocks.erase(it);
  std::free(block);
}

size_t freeMemory(Card* card) { return card->memory - card->taken; }

void upload(Card*, void* to, const void* host, size_t bytes, CallFailure*) { std::memcpy(to, host, bytes); }
void fill(Card* card, void* to, unsigned char byte, size_t bytes, CallFailure*) {
  const auto work = [=] { std::memset(to, byte, bytes); };
  if (card->recording)
    card->recording->work.emplace_back(work);
  else
    work();
}

bool beginRecording(Card* card) {
  if (freeMemory(card) < sizeof(uint32_t)) return false;  // a card takes a fault word
  card->recording = std::make_unique<Graph>();
  card->recording->launches = card->launches;
  card->stream.recording = &card->recording->work;
  return true;
}
Graph* endRecording(Card* card) {
  card->stream.recording = nullptr;
  Graph* graph = card->recording.release();
  graph->launches = card->launches - graph->launches;
  card->launches -= graph->launches;
  return graph;
}
void replay(Card* card, Graph* graph, uint32_t request, CallFailure* failure) {
  for (const auto& work : graph->work) work();
  card->launches += graph->launches;
  moveFault({nullptr, nullptr, nullptr, nullptr, &card->stream, faultWord(card, request), &card->facts, failure,
             &card->launches, nullptr},
            &graph->fault);
}
void forget(Card*, Graph* graph) { delete graph; }

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
