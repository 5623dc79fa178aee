#include "core/device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace infinity {
namespace {

constexpr uint32_t kMaxOperands = 384;  // of a list of tensors; other ops have at most twelve
constexpr uint32_t kMaxParams = 64;

}  // namespace

Device::Device(std::unique_ptr<Backend> backend, const DeviceOptions& options, Queue::OnComplete onComplete)
    : env_(readEnv()),
      backend_(std::move(backend)),
      dry_(options.dry),
      storage_(*backend_,
               options.memoryLimit ? options.memoryLimit
               : env_.memoryLimit  ? env_.memoryLimit
                                   : backend_->memory(),
               env_.guard, options.dry, [this] { queue_->drain(); }),
      queue_(std::make_unique<Queue>(*backend_, env_.trace, std::move(onComplete))) {
  tokens_[0] = std::make_shared<Token>(/*shared=*/true);
}

TokenPtr Device::token(uint32_t id) const {
  const auto it = tokens_.find(id);
  if (it == tokens_.end())
    throw CoreError("DISPOSED", "Expected a live cancel token but received one that was released.");
  return it->second;
}

uint32_t Device::newToken() {
  tokens_[nextToken_] = std::make_shared<Token>(/*shared=*/false, nextToken_);
  return nextToken_++;
}

void Device::cancelToken(uint32_t id) { token(id)->cancel(); }

void Device::releaseToken(uint32_t id) {
  if (id) tokens_.erase(id);
}

const ProgramPtr& Device::program(uint32_t id) const {
  const auto it = programs_.find(id);
  if (it == programs_.end()) throw CoreError("DISPOSED", "Expected a live program but received one that was disposed.");
  return it->second;
}

uint32_t Device::newProgram(uint32_t sharing) {
  ArenaPtr arena = sharing ? program(sharing)->arena : storage_.openArena();
  programs_[nextProgram_] = std::make_shared<Program>(*backend_, std::move(arena));
  return nextProgram_++;
}

void Device::enterProgram(uint32_t id) {
  const ProgramPtr& entered = program(id);
  if (writing_ || entered->sealed)
    throw CoreError("INVALID_ARGUMENT", writing_ ? "A program cannot be recorded inside another one."
                                                 : "A program that has run cannot be added to.");
  writing_ = entered;
  storage_.use(entered->arena);
}

void Device::leaveProgram() {
  writing_ = nullptr;
  storage_.use(nullptr);
}

void Device::runProgram(uint32_t tokenId, uint32_t id) {
  refuseInProgram("run another program");
  Command c;
  c.kind = Command::kProgram;
  c.token = token(tokenId);
  c.program = program(id);
  c.program->sealed = true;
  if (!dry_) queue_->submit(std::move(c), nullptr, nullptr, 0);
}

void Device::releaseProgram(uint32_t id) {
  Command c;
  c.kind = Command::kForget;
  c.program = program(id);
  programs_.erase(id);
  const ArenaPtr arena = c.program->arena;
  const auto shares = [&](const auto& other) { return other.second->arena == arena; };
  if (std::none_of(programs_.begin(), programs_.end(), shares)) storage_.closeArena(arena);
  queue_->submit(std::move(c), nullptr, nullptr, 0);
}

void Device::refuseInProgram(const char* what) const {
  if (writing_) throw CoreError("INVALID_ARGUMENT", std::string("A program cannot ") + what + ": it only computes.");
}

void Device::put(Command command, const TensorView* operands, const uint32_t* params, uint32_t count) {
  if (dry_) return;
  if (!writing_) return queue_->submit(std::move(command), operands, params, count);
  command.token = nullptr;
  writing_->batch.add(std::move(command), operands, params, count);
}

// Word layout: op, token, inputs, outputs, params,
//   then an input:   handle (0 = left out), dtype, byte offset low, high, rank, dims...
//   then an output:  handle (0 = allocate), dtype, byte offset low, high, rank, dims...
//   then the parameter words.
void Device::submit(uint32_t* words, uint32_t capacity) {
  const OpId op = static_cast<OpId>(words[0]);
  const uint32_t inputs = words[2], outputs = words[3], params = words[4];
  if (words[0] >= kOpCount || inputs + outputs > kMaxOperands || params > kMaxParams)
    throw CoreError("INTERNAL", "A malformed command was submitted.");
  const TokenPtr owner = token(words[1]);

  views_.assign(inputs + outputs, {});
  handles_.assign(inputs + outputs, 0);
  fresh_.clear();
  TensorView* const views = views_.data();
  uint32_t at = 5;
  // Handles allocated here are given back if anything below throws.
  struct Undo {
    Storage& storage;
    std::vector<uint32_t>& fresh;
    ~Undo() {
      for (uint32_t handle : fresh) storage.release(handle);
    }
  } undo{storage_, fresh_};

  for (uint32_t i = 0; i < inputs + outputs; ++i) {
    if (at + 5 + kMaxRank > capacity) throw CoreError("INTERNAL", "A command does not fit the submission buffer.");
    TensorView& v = views[i];
    const uint32_t handle = words[at], dtype = words[at + 1];
    const uint64_t offset = words[at + 2] | static_cast<uint64_t>(words[at + 3]) << 32;
    v.rank = words[at + 4];
    if (dtype >= kDTypeCount || v.rank > kMaxRank) throw CoreError("INTERNAL", "A malformed operand was submitted.");
    v.dtype = static_cast<DType>(dtype);
    for (uint32_t d = 0; d < v.rank; ++d) v.dims[d] = words[at + 5 + d];
    at += 5 + v.rank;
    if (i < inputs && !handle) continue;
    const size_t bytes = v.bytes();
    handles_[i] = handle;
    if (!handle) {
      handles_[i] = storage_.allocate(bytes);
      fresh_.push_back(handles_[i]);
    }
    v.data = storage_.resolve(handles_[i], offset, bytes);
  }

  Command command;
  command.op = op;
  command.kernel = backend_->find(op, views, inputs, outputs);
  if (!command.kernel)
    throw CoreError("UNSUPPORTED_DTYPE", "There is no kernel for " + describeCommand(op, views, inputs, outputs) + ".");
  command.token = owner;
  command.inputs = inputs;
  command.outputs = outputs;
  const size_t scratch =
      backend_->scratchBytes(command.kernel, {views, views + inputs, words + at, nullptr, owner->number()});
  if (scratch) command.scratch = storage_.scratch(scratch);
  if (env_.guard && !dry_) {
    for (uint32_t i = inputs; i < inputs + outputs; ++i) {
      if (std::find(fresh_.begin(), fresh_.end(), handles_[i]) == fresh_.end()) continue;
      Command fill;
      fill.kind = Command::kFill;
      fill.token = owner;
      fill.destination = views[i].data;
      fill.bytes = views[i].bytes();
      put(std::move(fill), nullptr, nullptr, 0);
    }
  }
  put(std::move(command), views, words + at, params);
  fresh_.clear();
  for (uint32_t i = 0; i < outputs; ++i) words[i] = handles_[inputs + i];
}

void Device::upload(uint32_t tokenId, uint32_t handle, uint64_t offset, const void* data, size_t bytes) {
  refuseInProgram("upload");
  if (dry_) return;
  Command c;
  c.kind = Command::kUpload;
  c.token = token(tokenId);
  c.destination = storage_.resolve(handle, offset, bytes);
  c.source = std::malloc(bytes ? bytes : 1);
  if (!c.source)
    throw CoreError("OUT_OF_MEMORY", "No memory for the staging copy of an upload.", static_cast<double>(bytes), 0);
  c.bytes = bytes;
  std::memcpy(c.source, data, bytes);
  queue_->submit(std::move(c), nullptr, nullptr, 0);
}

void Device::read(uint32_t tokenId, uint32_t handle, uint64_t offset, void* destination, size_t bytes,
                  uint64_t completion) {
  refuseInProgram("be read from");
  Command c;
  c.kind = Command::kRead;
  c.token = token(tokenId);
  c.source = storage_.resolve(handle, offset, bytes);
  c.destination = destination;
  c.bytes = dry_ ? 0 : bytes;
  c.completion = completion;
  queue_->submit(std::move(c), nullptr, nullptr, 0);
}

void Device::sync(uint32_t tokenId, uint64_t completion) {
  refuseInProgram("wait");
  Command c;
  c.kind = Command::kSync;
  c.token = token(tokenId);
  c.completion = completion;
  queue_->submit(std::move(c), nullptr, nullptr, 0);
}

}  // namespace infinity
