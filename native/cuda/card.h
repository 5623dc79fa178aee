// An opened card: its stream, its fault words, and copies. Defined by cuda/card.cc over the CUDA runtime and by
// tests/simt_card.cc on the host.
#pragma once
#include "cuda/kernel.h"

namespace infinity::cuda {

// Requests share fault words by their number; a word is cleared when it is read.
constexpr uint32_t kFaultWords = 1024;

Card* openCard(int ordinal, DeviceInfo* info, CallFailure* failure);
void closeCard(Card* card);
const DeviceFacts* factsOf(const Card* card);
Stream streamOf(Card* card);
uint32_t* faultWord(Card* card, uint32_t request);
std::atomic<uint64_t>* launchCount(Card* card);

void* allocate(Card* card, size_t bytes);
void release(Card* card, void* block);
size_t freeMemory(Card* card);
void upload(Card* card, void* to, const void* host, size_t bytes, CallFailure* failure);
void fill(Card* card, void* to, unsigned char byte, size_t bytes, CallFailure* failure);
void finish(Card* card, uint32_t request, void* host, const void* from, size_t bytes, FinishFn told, void* context);
void wait(Card* card);
void copyNow(Card* card, void* host, const void* from, size_t bytes);

}  // namespace infinity::cuda
