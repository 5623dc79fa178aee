#include "cuda/backend.h"

#include <dlfcn.h>

#include <memory>

#include "core/env.h"

namespace infinity {
namespace {

[[noreturn]] void unavailable(const std::string& why) { throw CoreError("DEVICE_UNAVAILABLE", why); }

// Opened once and never closed: its threads and its statics live as long as the process.
const cuda::Library* openLibrary(const std::string& path) {
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char* why = dlerror();
    unavailable("The CUDA backend could not be opened: " + std::string(why ? why : path) + ".");
  }
  const auto symbol = reinterpret_cast<cuda::LibraryFn>(dlsym(handle, cuda::kLibrarySymbol));
  const cuda::Library* library = symbol ? symbol() : nullptr;
  if (!library || library->version != cuda::kLibraryVersion || library->opsDigest != kOpsDigest)
    unavailable("The CUDA backend at " + path + " is of another version than the addon.");
  return library;
}

const cuda::KernelEntry* entryOf(const KernelRef& kernel) {
  return static_cast<const cuda::KernelEntry*>(kernel.entry);
}

}  // namespace

CudaBackend::CudaBackend(const std::string& library, const cuda::CardOptions& options)
    : library_(openLibrary(library)) {
  const std::string cublaslt = readEnv().cublaslt;
  cuda::CardOptions asked = options;
  asked.cublaslt = cublaslt.c_str();
  cuda::CallFailure failure;
  card_ = library_->open(asked, &info_, &failure);
  if (!card_) throw CoreError(failure.code, failure.message);
}

CudaBackend::~CudaBackend() {
  library_->wait(card_);
  library_->close(card_);
}

std::string CudaBackend::decisions() const {
  std::string text;
  for (;;) {  // lines may come meanwhile
    const size_t length = library_->decisions(card_, text.data(), text.size() + 1);
    if (length == text.size()) return text;
    text.resize(length);
  }
}

KernelRef CudaBackend::find(OpId op, const TensorView* operands, uint32_t inputs, uint32_t outputs) const {
  const cuda::KernelEntry* entry = library_->find(opInfo(op).name);
  if (!entry) unavailable(std::string("The op '") + opInfo(op).name + "' has no CUDA kernel.");
  if (!library_->accepts(entry, {operands, operands + inputs, nullptr}, inputs, outputs)) return {};
  return {entry, false};
}

size_t CudaBackend::scratchBytes(const KernelRef& kernel, const KernelCall& call) const {
  return library_->plan(card_, entryOf(kernel), {call.in, call.out, call.params});
}

void CudaBackend::run(const KernelRef& kernel, const KernelCall& call, Failure* failure) {
  cuda::CallFailure found = lost_;
  if (!found.code)
    library_->run(card_, entryOf(kernel), {call.in, call.out, call.params}, call.scratch, call.request, &found);
  if (found.code) *failure = {found.code, found.message};
}

void* CudaBackend::record(const std::function<void()>& commands) {
  if (!library_->beginRecording(card_)) return nullptr;
  commands();
  return library_->endRecording(card_);
}

void CudaBackend::replay(void* recording, uint32_t request, Failure* failure) {
  cuda::CallFailure found = lost_;
  if (!found.code) library_->replay(card_, static_cast<cuda::Graph*>(recording), request, &found);
  if (found.code) *failure = {found.code, found.message};
}

void CudaBackend::keep(const cuda::CallFailure& failure) {
  if (failure.code && !lost_.code) lost_ = failure;
}

void CudaBackend::upload(void* to, const void* host, size_t bytes) {
  cuda::CallFailure failure;
  library_->upload(card_, to, host, bytes, &failure);
  keep(failure);
}

void CudaBackend::fill(void* to, unsigned char byte, size_t bytes) {
  cuda::CallFailure failure;
  library_->fill(card_, to, byte, bytes, &failure);
  keep(failure);
}

void CudaBackend::fillNow(void* to, unsigned char byte, size_t bytes) {
  fill(to, byte, bytes);
  library_->wait(card_);
}

namespace {

struct FaultMeaning {
  cuda::Fault fault;
  const char *code, *message;
};
constexpr FaultMeaning kFaults[] = {
    {cuda::kNotANumber, "NUMERICAL", "The logits are not numbers."},
    {cuda::kIdOutOfRange, "INVALID_ARGUMENT",
     "Expected ids below the number of rows of the table but received one outside."},
    {cuda::kKeyRange, "INVALID_ARGUMENT", "a key range leaves the rows of k"},
};

}  // namespace

void CudaBackend::finish(uint32_t request, void* host, const void* from, size_t bytes, Done done) {
  const auto told = [](void* context, uint32_t fault, const char* error) {
    const std::unique_ptr<Done> then(static_cast<Done*>(context));
    if (error) {
      const Failure lost{"DEVICE_UNAVAILABLE", std::string("The card failed: ") + error + "."};
      return (*then)(&lost);
    }
    for (const FaultMeaning& meaning : kFaults)
      if (fault & meaning.fault) {
        const Failure failure{meaning.code, meaning.message};
        return (*then)(&failure);
      }
    (*then)(nullptr);
  };
  library_->finish(card_, request, host, from, bytes, told, new Done(std::move(done)));
}

}  // namespace infinity
