// An opened card: its stream, its fault words, copies, and recorded work. Defined by cuda/card.cc over the CUDA runtime
// and by tests/simt_card.cc on the host.
#pragma once
#include <memory>

#include "cuda/kernel.h"

namespace infinity::cuda {

Card* openCard(int ordinal, DeviceInfo* info, CallFailure* failure);
void closeCard(Card* card);
const DeviceFacts* factsOf(const Card* card);
// What this thread launches from now on is of this card.
void makeCurrent(Card* card);
Stream streamOf(Card* card);
// Of a request, see FaultWords; of the recorded work while work is being recorded, which serves many requests. On the
// queue's thread.
uint32_t* faultWord(Card* card, uint32_t request);
std::atomic<uint64_t>* launchCount(Card* card);
// Made by the library when the card is opened, gone before the card.
std::unique_ptr<ProductRoutes>& productRoutes(Card* card);

// Commands on the stream are being recorded, not run: nothing can be measured.
bool isRecording(Card* card);
// Milliseconds that one of `times` calls takes, each of which puts the same work on the stream, after a call that is
// not timed; waits for them. Negative when they failed. `what` names the work.
double timeOf(Card* card, const char* what, int times, void (*put)(const void*), const void* context);

void* allocate(Card* card, size_t bytes);
void release(Card* card, void* block);
size_t freeMemory(Card* card);
void upload(Card* card, void* to, const void* host, size_t bytes, CallFailure* failure);
void fill(Card* card, void* to, unsigned char byte, size_t bytes, CallFailure* failure);
void finish(Card* card, uint32_t request, void* host, const void* from, size_t bytes, FinishFn told, void* context);
// False where the card cannot: then what follows would run at once.
bool beginRecording(Card* card);
Graph* endRecording(Card* card);
void replay(Card* card, Graph* graph, uint32_t request, CallFailure* failure);
void forget(Card* card, Graph* graph);
void wait(Card* card);
void copyNow(Card* card, void* host, const void* from, size_t bytes);

}  // namespace infinity::cuda
