// Commands that are recorded once and run as often as wanted: operands are resolved, memory is taken, and nothing is
// left to decide. Whatever changes from run to run is read from tensors that are written in between.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "core/backend.h"
#include "core/storage.h"
#include "core/token.h"

namespace infinity {

class Program;
using ProgramPtr = std::shared_ptr<Program>;

struct Command {
  enum Kind : uint8_t { kKernel, kUpload, kRead, kFill, kSync, kProgram, kForget };
  Kind kind = kKernel;
  OpId op = OpId::count;
  KernelRef kernel;
  TokenPtr token;      // null inside a program, whose run has one
  ProgramPtr program;  // to run, or to forget: the last to hold it lets the backend's recording go
  uint32_t operands = 0, inputs = 0, outputs = 0, params = 0;  // indices into the batch, counts
  void* scratch = nullptr;
  void* source = nullptr;       // upload: owned staging memory; read: the tensor
  void* destination = nullptr;  // upload, fill: the tensor; read: memory that JavaScript keeps alive
  size_t bytes = 0;
  uint64_t completion = 0;  // read, sync: what `onComplete` is told
};

// Commands with their operands (inputs then outputs) and parameters.
struct Batch {
  std::vector<Command> commands;
  std::vector<TensorView> operands;
  std::vector<uint32_t> params;

  void add(Command command, const TensorView* views, const uint32_t* words, uint32_t count) {
    command.operands = static_cast<uint32_t>(operands.size());
    command.params = static_cast<uint32_t>(params.size());
    operands.insert(operands.end(), views, views + command.inputs + command.outputs);
    params.insert(params.end(), words, words + count);
    commands.push_back(std::move(command));
  }
  void clear() {
    commands.clear();
    operands.clear();
    params.clear();
  }
};

// Written by the JavaScript thread until it is first submitted, read by the queue's thread from then on.
class Program {
 public:
  Program(Backend& backend, ArenaPtr arena) : arena(std::move(arena)), backend_(backend) {}
  ~Program() {
    if (recording) backend_.forget(recording);
  }
  Program(const Program&) = delete;

  Batch batch;
  const ArenaPtr arena;
  bool sealed = false;  // it has been submitted
  // Of the queue's thread:
  enum { kNew, kRunOnce, kTried } state = kNew;  // tried: the backend has been asked to record it
  void* recording = nullptr;                     // the backend's own form, null where commands run one by one

 private:
  Backend& backend_;
};

}  // namespace infinity
