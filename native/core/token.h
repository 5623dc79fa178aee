// A token groups the commands of one request. Once it is cancelled or failed its remaining commands are skipped.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "core/error.h"

namespace infinity {

class Token {
 public:
  enum State : int { kLive, kCancelled, kFailed };

  bool live() const { return state_.load(std::memory_order_acquire) == kLive; }
  void cancel() {
    int expected = kLive;
    state_.compare_exchange_strong(expected, kCancelled, std::memory_order_acq_rel);
  }
  void fail(Failure failure) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (state_.load() != kLive) return;
    failure_ = std::move(failure);
    state_.store(kFailed, std::memory_order_release);
  }
  // What a read of this token rejects with.
  Failure reason() const {
    std::lock_guard<std::mutex> lock(mutex_);
    if (state_.load() == kFailed) return failure_;
    return {"ABORTED", "The work was cancelled."};
  }
  // The device's own token is not one request: what was reported once must not poison later work.
  explicit Token(bool shared = false, uint32_t number = 0) : shared_(shared), number_(number) {}
  uint32_t number() const { return number_; }
  bool shared() const { return shared_; }
  void revive() { state_.store(kLive, std::memory_order_release); }

 private:
  std::atomic<int> state_{kLive};
  mutable std::mutex mutex_;
  Failure failure_;
  const bool shared_;
  const uint32_t number_;
};

using TokenPtr = std::shared_ptr<Token>;

}  // namespace infinity
