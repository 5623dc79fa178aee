#include "core/queue.h"

#include <cstdlib>

#include "core/thread.h"

namespace infinity {
namespace {

const char* dtypeName(DType t) {
  static const char* const names[] = {"f32", "f64", "bf16", "i32", "u8"};
  return names[static_cast<uint32_t>(t)];
}

void appendView(std::string& text, const TensorView& v) {
  if (!v) {
    text += "none";
    return;
  }
  text += dtypeName(v.dtype);
  text += '[';
  for (uint32_t i = 0; i < v.rank; ++i) {
    if (i) text += ',';
    text += std::to_string(v.dims[i]);
  }
  text += ']';
}

// A list may be long: its first operands tell what it is.
void appendViews(std::string& text, const TensorView* views, uint32_t count) {
  constexpr uint32_t kMost = 12;
  for (uint32_t i = 0; i < count && i < kMost; ++i) {
    if (i) text += ", ";
    appendView(text, views[i]);
  }
  if (count > kMost) text += ", and " + std::to_string(count - kMost) + " more";
}

}  // namespace

std::string describeCommand(OpId op, const TensorView* operands, uint32_t inputs, uint32_t outputs) {
  std::string text = std::string(opInfo(op).name) + "(";
  appendViews(text, operands, inputs);
  text += ") -> ";
  appendViews(text, operands + inputs, outputs);
  return text;
}

Queue::Queue(Backend& backend, std::string tracePath, OnComplete onComplete)
    : onComplete_(std::move(onComplete)),
      trace_(std::move(tracePath)),
      backend_(backend),
      thread_([this] { loop(); }) {}

Queue::~Queue() {
  abandon_.store(true, std::memory_order_release);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
  backend_.wait();  // reads that are under way still call back
}

void Queue::submit(Command command, const TensorView* operands, const uint32_t* params, uint32_t paramCount) {
  bool wake;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    waiting_.add(std::move(command), operands, params, paramCount);
    wake = sleeping_;
    ++submitted_;
  }
  if (wake) wake_.notify_one();
}

void Queue::drain() {
  std::unique_lock<std::mutex> lock(mutex_);
  idle_.wait(lock, [&] { return waiting_.commands.empty() && !busy_; });
  lock.unlock();
  backend_.wait();
}

void Queue::loop() {
  yieldToEventLoop();
  Batch batch;
  for (;;) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      busy_ = false;
      if (waiting_.commands.empty()) idle_.notify_all();
      sleeping_ = true;
      wake_.wait(lock, [&] { return stop_ || !waiting_.commands.empty(); });
      sleeping_ = false;
      if (waiting_.commands.empty()) return;  // stop_, and nothing left to complete
      std::swap(batch, waiting_);
      busy_ = true;
    }
    for (const Command& command : batch.commands) execute(batch, command);
    batch.clear();
  }
}

void Queue::execute(const Batch& batch, const Command& command) {
  if (command.kind == Command::kForget) return;  // clearing the batch does it, on this thread
  const bool run = command.token->live() && !abandon_.load(std::memory_order_acquire);
  switch (command.kind) {
    case Command::kKernel:
      if (run) runKernel(batch, command, command.token);
      break;
    case Command::kProgram:
      if (run) runProgram(*command.program, command.token);
      break;
    case Command::kForget:
      break;
    case Command::kUpload:
      // Weights outlive the request that loads them, so only a cancelled upload is skipped.
      if (run) backend_.upload(command.destination, command.source, command.bytes);
      std::free(command.source);
      break;
    case Command::kFill:
      if (run) backend_.fill(command.destination, 0xFF, command.bytes);
      break;
    case Command::kRead:
    case Command::kSync:
      if (!run) return complete(command);
      const bool read = command.kind == Command::kRead;
      backend_.finish(command.token->number(), read ? command.destination : nullptr, read ? command.source : nullptr,
                      read ? command.bytes : 0, [this, command](const Failure* failure) {
                        if (failure) command.token->fail(*failure);
                        complete(command);
                      });
      break;
  }
}

void Queue::complete(const Command& command) {
  if (command.token->live() && !abandon_.load(std::memory_order_acquire))
    return onComplete_(command.completion, nullptr);
  const Failure reason = command.token->reason();
  if (command.token->shared()) command.token->revive();
  onComplete_(command.completion, &reason);
}

// The first run is of commands one by one: what a backend loads or measures with a kernel's first launch cannot be done
// while it records. It records while it runs nothing, so that the second run is the first replay as well.
void Queue::runProgram(Program& program, const TokenPtr& token) {
  if (program.state == Program::kNew) {
    program.state = Program::kRunOnce;
    return runEach(program.batch, token);
  }
  if (program.state == Program::kRunOnce && !trace_.enabled()) {
    program.state = Program::kTried;
    const auto scratch = std::make_shared<Token>();  // a launch that fails here will fail below, and tell its request
    program.recording = backend_.record([&] { runEach(program.batch, scratch); });
    if (program.recording && !scratch->live()) {
      backend_.forget(program.recording);
      program.recording = nullptr;
    }
  }
  if (!program.recording) return runEach(program.batch, token);
  Failure failure;
  backend_.replay(program.recording, token->number(), &failure);
  if (!failure.code.empty()) token->fail(failure);
}

void Queue::runEach(const Batch& batch, const TokenPtr& token) {
  for (const Command& command : batch.commands) {
    if (!token->live() || abandon_.load(std::memory_order_acquire)) return;
    if (command.kind == Command::kFill)
      backend_.fill(command.destination, 0xFF, command.bytes);
    else
      runKernel(batch, command, token);
  }
}

void Queue::runKernel(const Batch& batch, const Command& command, const TokenPtr& token) {
  const TensorView* operands = batch.operands.data() + command.operands;
  const KernelCall call{operands, operands + command.inputs, batch.params.data() + command.params, command.scratch,
                        token->number()};
  Failure failure;
  if (trace_.enabled()) {
    const auto begin = Trace::Clock::now();
    backend_.run(command.kernel, call, &failure);
    backend_.wait();
    trace_.add(describeCommand(command.op, operands, command.inputs, command.outputs), begin, Trace::Clock::now());
  } else {
    backend_.run(command.kernel, call, &failure);
  }
  if (!failure.code.empty())
    token->fail({failure.code, failure.message + " Raised by " +
                                   describeCommand(command.op, operands, command.inputs, command.outputs) + "."});
}

}  // namespace infinity
