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
#include "core/program.h"
#include "core/trace.h"

namespace infinity {

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
  void loop();
  void execute(const Batch& batch, const Command& command);
  void runKernel(const Batch& batch, const Command& command, const TokenPtr& token);
  void runProgram(Program& program, const TokenPtr& token);
  void runEach(const Batch& batch, const TokenPtr& token);
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
