// One in-order queue and one thread a device. The JavaScript thread submits commands whose operands are already
// resolved to pointers and shapes; the queue's thread runs them and never looks at the handle table.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/backend.h"
#include "core/token.h"
#include "core/trace.h"

namespace infinity {

struct Command {
  enum Kind : uint8_t { kKernel, kUpload, kRead, kFill, kSync };
  Kind kind = kKernel;
  OpId op = OpId::count;
  KernelRef kernel;
  TokenPtr token;
  uint32_t operands = 0, inputs = 0, outputs = 0, params = 0;  // indices into the batch, counts
  void* scratch = nullptr;
  void* source = nullptr;       // upload: owned staging memory; read: the tensor
  void* destination = nullptr;  // upload, fill: the tensor; read: memory that JavaScript keeps alive
  size_t bytes = 0;
  uint64_t completion = 0;  // read, sync: what `onComplete` is told
};

class Queue {
 public:
  // Told on the queue's thread or the backend's; `failure` is null on success.
  using OnComplete = std::function<void(uint64_t completion, const Failure* failure)>;

  Queue(Backend& backend, std::string tracePath, OnComplete onComplete);
  // Skips what is still waiting, finishes the command that runs, joins the threads.
  ~Queue();

  // Operands are inputs then outputs. Called on the JavaScript thread.
  void submit(Command command, const TensorView* operands, const uint32_t* params, uint32_t paramCount);
  // Blocks until everything submitted so far has run.
  void drain();

  uint64_t submitted() const { return submitted_; }

 private:
  struct Batch {
    std::vector<Command> commands;
    std::vector<TensorView> operands;
    std::vector<uint32_t> params;
    void clear();
  };
  void loop();
  void execute(const Batch& batch, const Command& command);
  void runKernel(const Batch& batch, const Command& command);
  void complete(const Command& command);

  OnComplete onComplete_;
  Trace trace_;
  Backend& backend_;
  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  Batch waiting_;
  bool stop_ = false, sleeping_ = false, busy_ = false;
  std::atomic<bool> abandon_{false};
  uint64_t submitted_ = 0;
  std::thread thread_;
};

// "gelu(f32[4,64]) -> f32[4,64]": for messages and traces.
std::string describeCommand(OpId op, const TensorView* operands, uint32_t inputs, uint32_t outputs);

}  // namespace infinity
