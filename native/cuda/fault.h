// Whom what kernels found wrong belongs to.
#pragma once
#include "cuda/kernel.h"

namespace infinity::cuda {

// Requests share words by their numbers; number 0, the device's own, has one for itself. A word is cleared when it is
// read, and when a later request takes it over: a cancelled one may have left something that nobody read.
class FaultWords {
 public:
  static constexpr uint32_t kCount = 1024;
  struct Word {
    uint32_t index;
    bool clear;  // before the request uses it
  };
  Word of(uint32_t request) {
    const uint32_t index = request ? 1 + request % (kCount - 1) : 0;
    const bool later = request > latest_[index];
    if (later) latest_[index] = request;
    return {index, later};
  }

 private:
  uint32_t latest_[kCount] = {};
};

// What recorded work found wrong belongs to the request that it last ran for. Puts a kernel on the stream that adds the
// faults at `from` to those of the request (a.fault), and clears them.
void moveFault(const KernelArgs& a, uint32_t* from);

}  // namespace infinity::cuda
