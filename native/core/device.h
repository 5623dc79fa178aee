// A device: backend, allocator, queue and tokens together, without anything of Node. The addon and the native tests
// drive it.
#pragma once
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/backend.h"
#include "core/env.h"
#include "core/queue.h"
#include "core/storage.h"

namespace infinity {

struct DeviceOptions {
  size_t memoryLimit = 0;  // 0: NODE_INFINITY_MEMORY_LIMIT, else what the backend offers
  bool dry = false;        // commands are checked, planned and counted; nothing is allocated or computed
};

class Device {
 public:
  Device(std::unique_ptr<Backend> backend, const DeviceOptions& options, Queue::OnComplete onComplete);

  // Reads one command from `words` (layout in device.cc), allocates its outputs, plans, resolves and submits it.
  // The handles of all outputs are written to words[0..outputs). Throws CoreError; then nothing was submitted.
  void submit(uint32_t* words, uint32_t capacity);
  uint32_t allocate(size_t bytes) { return storage_.allocate(bytes); }
  void release(uint32_t handle) { storage_.release(handle); }
  void upload(uint32_t token, uint32_t handle, uint64_t offset, const void* data, size_t bytes);
  void read(uint32_t token, uint32_t handle, uint64_t offset, void* destination, size_t bytes, uint64_t completion);
  void sync(uint32_t token, uint64_t completion);

  // A program is written by entering it, submitting and leaving; then it runs as often as wanted. Those that are to run
  // in the order of their recording may share memory with an earlier one; 0 is none.
  uint32_t newProgram(uint32_t sharing);
  void enterProgram(uint32_t program);
  void leaveProgram();
  void runProgram(uint32_t token, uint32_t program);
  void releaseProgram(uint32_t program);
  uint64_t programBytes(uint32_t id) const { return program(id)->arena->bytes; }

  uint32_t newToken();
  void cancelToken(uint32_t token);
  void releaseToken(uint32_t token);

  bool guarded() const { return env_.guard; }
  Queue& queue() { return *queue_; }
  Storage& storage() { return storage_; }
  Backend& backend() { return *backend_; }

 private:
  TokenPtr token(uint32_t id) const;
  const ProgramPtr& program(uint32_t id) const;
  void refuseInProgram(const char* what) const;
  // To the program that is being written, else to the queue.
  void put(Command command, const TensorView* operands, const uint32_t* params, uint32_t count);

  EnvSwitches env_;
  std::unique_ptr<Backend> backend_;
  bool dry_;
  std::unordered_map<uint32_t, TokenPtr> tokens_;
  std::unordered_map<uint32_t, ProgramPtr> programs_;
  uint32_t nextToken_ = 1, nextProgram_ = 1;
  ProgramPtr writing_;
  Storage storage_;  // outlives the queue, which may still be running a command on its blocks
  std::unique_ptr<Queue> queue_;

  // The command that is being read: its operands, their handles, and those of them that it allocated.
  std::vector<TensorView> views_;
  std::vector<uint32_t> handles_, fresh_;
};

}  // namespace infinity
