// Finished reads and syncs on their way back to JavaScript. The ThreadSafeFunction keeps the process alive only while
// promises are pending: always referenced it would never end, never referenced it would drop them.
#pragma once
#include <napi.h>

#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/error.h"

namespace infinity {

class Mailbox {
 public:
  explicit Mailbox(Napi::Env env) {
    deliver_ = Napi::ThreadSafeFunction::New(env, Napi::Function(), "node-infinity", 0, 1);
    deliver_.Unref(env);
  }

  // A promise for `completion`, which is new; `keepAlive` (the memory that a read fills) stays until it is settled.
  Napi::Promise add(Napi::Env env, uint64_t* completion, Napi::Value keepAlive) {
    auto deferred = Napi::Promise::Deferred::New(env);
    *completion = next_++;
    if (pending_.empty()) deliver_.Ref(env);
    pending_.emplace(*completion, Entry{deferred, Napi::Reference<Napi::Value>::New(keepAlive, 1)});
    return deferred.Promise();
  }

  // The command was never submitted.
  void forget(uint64_t completion) { pending_.erase(completion); }

  // On the queue's thread.
  void complete(uint64_t completion, const Failure* failure) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      done_.push_back({completion, failure != nullptr, failure ? *failure : Failure{}});
    }
    deliver_.NonBlockingCall([this](Napi::Env env, Napi::Function) {
      if (env == nullptr) return;
      try {
        settle(env);
      } catch (const Napi::Error&) {
        // The environment is being torn down (a worker was terminated): nobody is left to be told.
      }
    });
  }

 private:
  struct Entry {
    Napi::Promise::Deferred deferred;
    Napi::Reference<Napi::Value> keepAlive;
  };
  struct Done {
    uint64_t completion;
    bool failed;
    Failure failure;
  };

  void settle(Napi::Env env) {
    std::vector<Done> done;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      done.swap(done_);
    }
    for (Done& d : done) {
      auto it = pending_.find(d.completion);
      if (it == pending_.end()) continue;
      const Napi::Promise::Deferred deferred = it->second.deferred;
      pending_.erase(it);
      if (d.failed) {
        Napi::Error error = Napi::Error::New(env, d.failure.message);
        error.Set("code", Napi::String::New(env, d.failure.code));
        deferred.Reject(error.Value());
      } else {
        deferred.Resolve(env.Undefined());
      }
    }
    if (pending_.empty()) deliver_.Unref(env);
  }

  Napi::ThreadSafeFunction deliver_;
  std::mutex mutex_;
  std::vector<Done> done_;
  std::unordered_map<uint64_t, Entry> pending_;
  uint64_t next_ = 1;
};

}  // namespace infinity
