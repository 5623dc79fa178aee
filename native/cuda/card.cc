#include "cuda/card.h"

#include <cuda_runtime.h>

#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "cuda/fault.h"
#include "cuda/route.h"

namespace infinity::cuda {
namespace {

constexpr int kOldestArchitecture = 80;

// A finished copy waits here for its event: pinned memory between the card and the host.
struct Pending {
  cudaEvent_t event;
  char* pinned;  // the bytes, then the fault word
  size_t capacity;
  void* host;
  size_t bytes;
  FinishFn told;
  void* context;
  const char* error;
};

void refuse(CallFailure* failure, const char* what, cudaError_t error) {
  if (error == cudaSuccess || failure->code) return;
  failure->code = error == cudaErrorMemoryAllocation ? "OUT_OF_MEMORY" : "DEVICE_UNAVAILABLE";
  std::snprintf(failure->message, sizeof failure->message, "%s: %s.", what, cudaGetErrorString(error));
}

}  // namespace

struct Graph {
  cudaGraphExec_t exec = nullptr;
  uint32_t* fault = nullptr;
  uint64_t launches = 0;  // kernels of one replay
};

struct Card {
  int ordinal = 0;
  DeviceFacts facts = {};
  cudaStream_t stream = nullptr;
  uint32_t* faults = nullptr;
  FaultWords faultWords;  // of the queue's thread
  std::atomic<uint64_t> launches{0};
  std::unique_ptr<ProductRoutes> routes;
  Graph* recording = nullptr;  // of the queue's thread

  std::mutex mutex;
  std::condition_variable wake, idle;
  std::deque<Pending> pending;
  bool busy = false, stop = false;
  std::multimap<size_t, char*> pinned;  // free, by capacity
  std::vector<cudaEvent_t> events;      // free
  std::thread finisher;

  void loop();
  bool take(size_t bytes, Pending* p);
  void give(const Pending& p);
};

// Waits for events in order and calls back: the queue's thread goes on launching meanwhile.
void Card::loop() {
  cudaSetDevice(ordinal);
  std::unique_lock<std::mutex> lock(mutex);
  for (;;) {
    wake.wait(lock, [&] { return stop || !pending.empty(); });
    if (pending.empty()) return;
    Pending p = pending.front();
    pending.pop_front();
    busy = true;
    lock.unlock();
    uint32_t fault = 0;
    if (!p.error) {
      const cudaError_t error = cudaEventSynchronize(p.event);
      if (error == cudaSuccess) {
        if (p.bytes) std::memcpy(p.host, p.pinned, p.bytes);
        std::memcpy(&fault, p.pinned + p.capacity, sizeof fault);
      } else {
        p.error = cudaGetErrorString(error);
      }
    }
    p.told(p.context, fault, p.error);
    lock.lock();
    give(p);
    busy = false;
    if (pending.empty()) idle.notify_all();
  }
}

// A free piece of pinned memory of at least `bytes`, and an event. False when the card gives none.
bool Card::take(size_t bytes, Pending* p) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto fits = pinned.lower_bound(bytes);
  if (fits != pinned.end()) {
    p->capacity = fits->first;
    p->pinned = fits->second;
    pinned.erase(fits);
  } else {
    p->capacity = 4096;
    while (p->capacity < bytes) p->capacity *= 2;
    void* block = nullptr;
    if (cudaMallocHost(&block, p->capacity + sizeof(uint32_t)) != cudaSuccess) return false;
    p->pinned = static_cast<char*>(block);
  }
  if (events.empty()) return cudaEventCreateWithFlags(&p->event, cudaEventDisableTiming) == cudaSuccess;
  p->event = events.back();
  events.pop_back();
  return true;
}

void Card::give(const Pending& p) {
  if (p.pinned) pinned.emplace(p.capacity, p.pinned);
  if (p.event) events.push_back(p.event);
}

Card* openCard(int ordinal, DeviceInfo* info, CallFailure* failure) {
  int count = 0;
  refuse(failure, "No NVIDIA card can be used", cudaGetDeviceCount(&count));
  if (failure->code) {
    failure->code = "DEVICE_UNAVAILABLE";
    return nullptr;
  }
  cudaDeviceProp properties;
  if (ordinal < 0 || ordinal >= count) {
    failure->code = "DEVICE_UNAVAILABLE";
    std::snprintf(failure->message, sizeof failure->message, "There is no card number %d; this machine has %d.",
                  ordinal, count);
    return nullptr;
  }
  refuse(failure, "The card cannot be opened", cudaGetDeviceProperties(&properties, ordinal));
  if (failure->code) return nullptr;
  const int architecture = properties.major * 10 + properties.minor;
  if (architecture < kOldestArchitecture) {
    failure->code = "DEVICE_UNAVAILABLE";
    std::snprintf(failure->message, sizeof failure->message,
                  "%s has compute capability %d.%d; the kernels need 8.0 or newer.", properties.name, properties.major,
                  properties.minor);
    return nullptr;
  }
  auto* card = new Card;
  card->ordinal = ordinal;
  card->facts = {static_cast<uint32_t>(properties.multiProcessorCount), static_cast<uint32_t>(architecture),
                 static_cast<uint32_t>(properties.sharedMemPerBlockOptin),
                 static_cast<uint64_t>(properties.l2CacheSize)};
  void* faults = nullptr;
  refuse(failure, "The card cannot be opened", cudaSetDevice(ordinal));
  if (!failure->code)
    refuse(failure, "The card has no stream left", cudaStreamCreateWithFlags(&card->stream, cudaStreamNonBlocking));
  if (!failure->code)
    refuse(failure, "The card has no memory left", cudaMalloc(&faults, FaultWords::kCount * sizeof(uint32_t)));
  if (!failure->code)
    refuse(failure, "The card cannot be written", cudaMemset(faults, 0, FaultWords::kCount * sizeof(uint32_t)));
  if (failure->code) {
    if (faults) cudaFree(faults);
    if (card->stream) cudaStreamDestroy(card->stream);
    delete card;
    return nullptr;
  }
  card->faults = static_cast<uint32_t*>(faults);
  card->finisher = std::thread([card] { card->loop(); });
  info->facts = card->facts;
  info->memory = properties.totalGlobalMem;
  std::snprintf(info->name, sizeof info->name, "%s", properties.name);
  return card;
}

void closeCard(Card* card) {
  {
    const std::lock_guard<std::mutex> lock(card->mutex);
    card->stop = true;
  }
  card->wake.notify_all();
  card->finisher.join();
  card->routes.reset();
  for (auto& [capacity, block] : card->pinned) cudaFreeHost(block);
  for (cudaEvent_t event : card->events) cudaEventDestroy(event);
  cudaFree(card->faults);
  cudaStreamDestroy(card->stream);
  delete card;
}

const DeviceFacts* factsOf(const Card* card) { return &card->facts; }
void makeCurrent(Card* card) { cudaSetDevice(card->ordinal); }
Stream streamOf(Card* card) { return card->stream; }
uint32_t* faultWord(Card* card, uint32_t request) {
  if (card->recording) return card->recording->fault;
  const FaultWords::Word word = card->faultWords.of(request);
  uint32_t* const at = card->faults + word.index;
  if (word.clear) cudaMemsetAsync(at, 0, sizeof *at, card->stream);  // a failure would fail the launch that follows
  return at;
}
std::atomic<uint64_t>* launchCount(Card* card) { return &card->launches; }
std::unique_ptr<ProductRoutes>& productRoutes(Card* card) { return card->routes; }

bool isRecording(Card* card) { return card->recording != nullptr; }

double timeOf(Card* card, const char*, int times, void (*put)(const void*), const void* context) {
  cudaEvent_t first = nullptr, last = nullptr;
  float ms = -1;
  if (cudaEventCreate(&first) == cudaSuccess && cudaEventCreate(&last) == cudaSuccess) {
    put(context);
    cudaEventRecord(first, card->stream);
    for (int i = 0; i < times; ++i) put(context);
    cudaEventRecord(last, card->stream);
    if (cudaEventSynchronize(last) != cudaSuccess || cudaEventElapsedTime(&ms, first, last) != cudaSuccess) ms = -1;
  }
  if (first) cudaEventDestroy(first);
  if (last) cudaEventDestroy(last);
  return ms / times;
}

// The current card belongs to the calling thread: these are called by the JavaScript thread and by the queue's.
void* allocate(Card* card, size_t bytes) {
  void* block = nullptr;
  cudaSetDevice(card->ordinal);
  if (cudaMalloc(&block, bytes) == cudaSuccess) return block;
  cudaGetLastError();  // out of memory is told to the caller, and must not be found by the next launch
  return nullptr;
}

void release(Card* card, void* block) {
  cudaSetDevice(card->ordinal);
  cudaFree(block);
}

size_t freeMemory(Card* card) {
  size_t free = 0, total = 0;
  cudaSetDevice(card->ordinal);
  return cudaMemGetInfo(&free, &total) == cudaSuccess ? free : 0;
}

void upload(Card* card, void* to, const void* host, size_t bytes, CallFailure* failure) {
  cudaSetDevice(card->ordinal);
  // From pageable memory: the call returns when `host` may be freed.
  refuse(failure, "An upload failed", cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, card->stream));
}

void fill(Card* card, void* to, unsigned char byte, size_t bytes, CallFailure* failure) {
  cudaSetDevice(card->ordinal);
  refuse(failure, "A fill failed", cudaMemsetAsync(to, byte, bytes, card->stream));
}

void finish(Card* card, uint32_t request, void* host, const void* from, size_t bytes, FinishFn told, void* context) {
  cudaSetDevice(card->ordinal);
  Pending p = {nullptr, nullptr, 0, host, bytes, told, context, nullptr};
  uint32_t* word = faultWord(card, request);
  cudaError_t error = card->take(bytes, &p) ? cudaSuccess : cudaErrorMemoryAllocation;
  if (error == cudaSuccess && bytes)
    error = cudaMemcpyAsync(p.pinned, from, bytes, cudaMemcpyDeviceToHost, card->stream);
  if (error == cudaSuccess)
    error = cudaMemcpyAsync(p.pinned + p.capacity, word, sizeof *word, cudaMemcpyDeviceToHost, card->stream);
  if (error == cudaSuccess) error = cudaMemsetAsync(word, 0, sizeof *word, card->stream);
  if (error == cudaSuccess) error = cudaEventRecord(p.event, card->stream);
  if (error != cudaSuccess) p.error = cudaGetErrorString(error);
  {
    const std::lock_guard<std::mutex> lock(card->mutex);
    card->pending.push_back(p);
  }
  card->wake.notify_one();
}

// Of this thread alone: meanwhile others may take memory and wait for events.
bool beginRecording(Card* card) {
  cudaSetDevice(card->ordinal);
  void* fault = nullptr;
  if (cudaMalloc(&fault, sizeof(uint32_t)) != cudaSuccess ||
      cudaMemsetAsync(fault, 0, sizeof(uint32_t), card->stream) != cudaSuccess ||
      cudaStreamBeginCapture(card->stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
    cudaGetLastError();
    cudaFree(fault);
    return false;
  }
  card->recording = new Graph;
  card->recording->fault = static_cast<uint32_t*>(fault);
  card->recording->launches = card->launches;
  return true;
}

Graph* endRecording(Card* card) {
  Graph* graph = card->recording;
  card->recording = nullptr;
  graph->launches = card->launches - graph->launches;
  card->launches -= graph->launches;  // they have not run
  cudaGraph_t recorded = nullptr;
  const bool ended = cudaStreamEndCapture(card->stream, &recorded) == cudaSuccess && recorded;
  const bool made = ended && cudaGraphInstantiate(&graph->exec, recorded, 0) == cudaSuccess;
  if (recorded) cudaGraphDestroy(recorded);
  if (made) return graph;
  cudaGetLastError();
  cudaFree(graph->fault);
  delete graph;
  return nullptr;
}

void replay(Card* card, Graph* graph, uint32_t request, CallFailure* failure) {
  cudaSetDevice(card->ordinal);
  refuse(failure, "Recorded work could not be launched", cudaGraphLaunch(graph->exec, card->stream));
  if (failure->code) return;
  card->launches += graph->launches;
  moveFault({nullptr, nullptr, nullptr, nullptr, card->stream, faultWord(card, request), &card->facts, failure,
             &card->launches, nullptr},
            graph->fault);
}

void forget(Card* card, Graph* graph) {
  cudaSetDevice(card->ordinal);
  cudaStreamSynchronize(card->stream);  // it may still be running
  cudaGraphExecDestroy(graph->exec);
  cudaFree(graph->fault);
  delete graph;
}

void wait(Card* card) {
  cudaSetDevice(card->ordinal);
  cudaStreamSynchronize(card->stream);
  std::unique_lock<std::mutex> lock(card->mutex);
  card->idle.wait(lock, [&] { return card->pending.empty() && !card->busy; });
}

void copyNow(Card* card, void* host, const void* from, size_t bytes) {
  cudaSetDevice(card->ordinal);
  cudaMemcpy(host, from, bytes, cudaMemcpyDeviceToHost);
}

}  // namespace infinity::cuda
