// What the addon and node_infinity_cuda.so agree on. The library is opened at run time, beside the addon, so that a
// machine without a card needs nothing of it; no CUDA header is needed on the addon's side.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/tensor.h"

namespace infinity::cuda {

// What a plan or a launch may decide by.
struct DeviceFacts {
  uint32_t processors;    // streaming multiprocessors
  uint32_t architecture;  // 80, 89, 90, ...
  uint32_t sharedBytes;   // a block may ask for, dynamic
  uint64_t cacheBytes;    // second level
};

struct DeviceInfo {
  DeviceFacts facts;
  uint64_t memory;  // bytes of the card
  char name[256];
};

// Bits of a request's fault word. A kernel that finds one goes on; the next read of the request reports it.
enum Fault : uint32_t {
  kNotANumber = 1,    // the logits of a bit or of a token are not numbers
  kIdOutOfRange = 2,  // an id that names no row of its table
  kKeyRange = 4,      // a key range leaves the rows of k
};

// The first failure of a call. `code` is a literal and null while there is none.
struct CallFailure {
  const char* code = nullptr;
  char message[512] = {};
};

// What a card is opened with.
struct CardOptions {
  int ordinal = 0;
  // false: a product or an attention goes whichever way was measured to be the fastest for its description, cuBLASLt
  // among them.
  bool deterministic = true;
  const char* products = "";  // name of the one way of all that it can serve; "": by rule or by measurement
  const char* cublaslt = "";  // path of cuBLASLt; "": where the system finds it. Opened where products may take it.
};

struct Card;         // an opened card with its stream
struct Graph;        // recorded work
struct KernelEntry;  // cuda/kernel.h

struct Operands {
  const TensorView* in;
  const TensorView* out;
  const uint32_t* params;
};

// Told, on a thread of the library, that a read is complete.
using FinishFn = void (*)(void* context, uint32_t fault, const char* error);

constexpr uint32_t kLibraryVersion = 7;

struct Library {
  uint32_t version;
  uint32_t opsDigest;  // kOpsDigest of core/ops.h, as the library was built
  // Opens a card; null with `failure` set where there is none, or none that the kernels run on, or not as asked.
  Card* (*open)(const CardOptions& options, DeviceInfo* info, CallFailure* failure);
  void (*close)(Card*);                    // after wait()
  void* (*allocate)(Card*, size_t bytes);  // null when the card has no memory
  void (*release)(Card*, void* block);
  size_t (*freeMemory)(Card*);  // bytes that the card has left
  // The op's kernel, or null.
  const KernelEntry* (*find)(const char* op);
  bool (*accepts)(const KernelEntry*, const Operands&, uint32_t inputs, uint32_t outputs);
  size_t (*plan)(Card*, const KernelEntry*, const Operands&);
  void (*run)(Card*, const KernelEntry*, const Operands&, void* scratch, uint32_t request, CallFailure*);
  void (*upload)(Card*, void* to, const void* host, size_t bytes, CallFailure*);
  void (*fill)(Card*, void* to, unsigned char byte, size_t bytes, CallFailure*);
  // Copies `bytes` to the host when everything before has run, and tells what the request's fault word held.
  void (*finish)(Card*, uint32_t request, void* host, const void* from, size_t bytes, FinishFn, void* context);
  // Until everything has run and every FinishFn has returned.
  void (*wait)(Card*);
  void (*copyNow)(Card*, void* host, const void* from, size_t bytes);
  uint64_t (*launches)(Card*);  // so far
  // The ways that products went so far, a line each. Writes at most `room` bytes, the last of them 0, and returns how
  // many the whole text has without it.
  size_t (*decisions)(Card*, char* to, size_t room);
  // Between the two calls `run` and `fill` are recorded, not run. False, and then nothing is to be ended, where that
  // cannot begin; null where the card's driver could not keep what it was given.
  bool (*beginRecording)(Card*);
  Graph* (*endRecording)(Card*);
  void (*replay)(Card*, Graph*, uint32_t request, CallFailure*);
  void (*forget)(Card*, Graph*);
};

// The one symbol of the library.
using LibraryFn = const Library* (*)();
constexpr const char* kLibrarySymbol = "node_infinity_cuda";

}  // namespace infinity::cuda
