// The whole N-API surface. It moves integers and bytes between JavaScript and a device and knows no op by name.
#include <napi.h>

#include <memory>
#include <unordered_map>

#include "addon/mailbox.h"
#include "core/device.h"
#include "cpu/backend.h"
#include "cuda/backend.h"

namespace {

using infinity::CoreError;
using infinity::Device;
using infinity::Failure;
using infinity::Mailbox;

struct OpenDevice {
  std::unique_ptr<Device> device;
  uint32_t* words;
  uint32_t capacity;
  Napi::Reference<Napi::Value> wordsRef;
};

// Everything belongs to one environment: worker threads load the addon again and get their own.
struct Instance {
  explicit Instance(Napi::Env env) : mailbox(env) {}
  Mailbox mailbox;
  std::unordered_map<uint32_t, OpenDevice> devices;
  uint32_t nextDevice = 1;
};

Instance& instance(Napi::Env env) { return *env.GetInstanceData<Instance>(); }

[[noreturn]] void throwCore(Napi::Env env, const CoreError& e) {
  Napi::Error error = Napi::Error::New(env, e.what());
  error.Set("code", Napi::String::New(env, e.code));
  if (e.needed >= 0) {
    error.Set("needed", Napi::Number::New(env, e.needed));
    error.Set("free", Napi::Number::New(env, e.free));
  }
  throw error;
}

template <Napi::Value (*Body)(const Napi::CallbackInfo&)>
Napi::Value guarded(const Napi::CallbackInfo& info) {
  try {
    return Body(info);
  } catch (const CoreError& e) {
    throwCore(info.Env(), e);
  }
}

OpenDevice& device(const Napi::CallbackInfo& info) {
  auto& devices = instance(info.Env()).devices;
  auto it = devices.find(info[0].As<Napi::Number>().Uint32Value());
  if (it == devices.end()) throw CoreError("DISPOSED", "Expected an open device but received one that was closed.");
  return it->second;
}

uint32_t word(const Napi::CallbackInfo& info, size_t i) { return info[i].As<Napi::Number>().Uint32Value(); }
uint64_t wide(const Napi::CallbackInfo& info, size_t i) {
  return static_cast<uint64_t>(info[i].As<Napi::Number>().Int64Value());
}

void account(Napi::Env env, Device& d) {
  const int64_t delta = d.storage().takeExternalDelta();
  if (delta) Napi::MemoryManagement::AdjustExternalMemory(env, delta);
}

std::string textOf(const Napi::Object& given, const char* key) {
  const Napi::Value value = given.Get(key);
  return value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
}
int integerOf(const Napi::Object& given, const char* key) {
  const Napi::Value value = given.Get(key);
  return value.IsNumber() ? value.As<Napi::Number>().Int32Value() : 0;
}

std::unique_ptr<infinity::Backend> openBackend(const Napi::Object& given) {
  if (textOf(given, "kind") == "cuda") {
    const std::string products = textOf(given, "products");
    const Napi::Value deterministic = given.Get("deterministic");
    const bool measured = deterministic.IsBoolean() && !deterministic.As<Napi::Boolean>().Value();
    return std::make_unique<infinity::CudaBackend>(
        textOf(given, "library"), infinity::cuda::CardOptions{integerOf(given, "card"), !measured, products.c_str()});
  }
  return std::make_unique<infinity::CpuBackend>(textOf(given, "isa"), integerOf(given, "threads"));
}

// open(words: Uint32Array, { kind?: 'cpu' | 'cuda', threads?, isa?, library?, card?, deterministic?, products?,
//   memoryLimit?, dry? }) -> device id
Napi::Value Open(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Instance& self = instance(env);
  auto words = info[0].As<Napi::Uint32Array>();
  auto given = info[1].As<Napi::Object>();
  infinity::DeviceOptions options;
  if (given.Get("memoryLimit").IsNumber())
    options.memoryLimit = static_cast<size_t>(given.Get("memoryLimit").As<Napi::Number>().Int64Value());
  if (given.Get("dry").IsBoolean()) options.dry = given.Get("dry").As<Napi::Boolean>().Value();
  OpenDevice open;
  open.device = std::make_unique<Device>(
      openBackend(given), options,
      [box = &self.mailbox](uint64_t id, const Failure* failure) { box->complete(id, failure); });
  open.words = words.Data();
  open.capacity = static_cast<uint32_t>(words.ElementLength());
  open.wordsRef = Napi::Reference<Napi::Value>::New(words, 1);
  const uint32_t id = self.nextDevice++;
  self.devices.emplace(id, std::move(open));
  return Napi::Number::New(env, id);
}

// close(device): skips what is waiting, joins the threads
Napi::Value Close(const Napi::CallbackInfo& info) {
  OpenDevice& d = device(info);
  d.device->storage().trim();
  account(info.Env(), *d.device);
  instance(info.Env()).devices.erase(word(info, 0));
  return info.Env().Undefined();
}

// submit(device): one command from the shared words; output handles come back in their place
Napi::Value Submit(const Napi::CallbackInfo& info) {
  OpenDevice& d = device(info);
  d.device->submit(d.words, d.capacity);
  account(info.Env(), *d.device);
  return info.Env().Undefined();
}

// alloc(device, bytes) -> handle
Napi::Value Alloc(const Napi::CallbackInfo& info) {
  OpenDevice& d = device(info);
  const uint32_t handle = d.device->allocate(wide(info, 1));
  account(info.Env(), *d.device);
  return Napi::Number::New(info.Env(), handle);
}

// free(device, handle)
Napi::Value Free(const Napi::CallbackInfo& info) {
  device(info).device->release(word(info, 1));
  return info.Env().Undefined();
}

// upload(device, token, handle, offset, bytes: Uint8Array)
Napi::Value Upload(const Napi::CallbackInfo& info) {
  auto bytes = info[4].As<Napi::Uint8Array>();
  device(info).device->upload(word(info, 1), word(info, 2), wide(info, 3), bytes.Data(), bytes.ByteLength());
  return info.Env().Undefined();
}

// read(device, token, handle, offset, into: Uint8Array) -> Promise<void>
Napi::Value Read(const Napi::CallbackInfo& info) {
  OpenDevice& d = device(info);
  auto into = info[4].As<Napi::Uint8Array>();
  Mailbox& box = instance(info.Env()).mailbox;
  uint64_t completion;
  Napi::Promise promise = box.add(info.Env(), &completion, into);
  try {
    d.device->read(word(info, 1), word(info, 2), wide(info, 3), into.Data(), into.ByteLength(), completion);
  } catch (...) {
    box.forget(completion);
    throw;
  }
  return promise;
}

// sync(device, token) -> Promise<void>
Napi::Value Sync(const Napi::CallbackInfo& info) {
  OpenDevice& d = device(info);
  Mailbox& box = instance(info.Env()).mailbox;
  uint64_t completion;
  Napi::Promise promise = box.add(info.Env(), &completion, Napi::Object::New(info.Env()));
  try {
    d.device->sync(word(info, 1), completion);
  } catch (...) {
    box.forget(completion);
    throw;
  }
  return promise;
}

// token(device, action: 0 new | 1 cancel | 2 release, id) -> id
Napi::Value TokenCall(const Napi::CallbackInfo& info) {
  Device& d = *device(info).device;
  uint32_t id = word(info, 2);
  switch (word(info, 1)) {
    case 0:
      id = d.newToken();
      break;
    case 1:
      d.cancelToken(id);
      break;
    default:
      d.releaseToken(id);
      break;
  }
  return Napi::Number::New(info.Env(), id);
}

// program(device, action: 0 new | 1 enter | 2 leave | 3 run | 4 release | 5 bytes of its memory, id, token) -> number.
// New: `id` is one to share memory with, or 0; the new one's is returned.
Napi::Value ProgramCall(const Napi::CallbackInfo& info) {
  OpenDevice& d = device(info);
  const uint32_t id = word(info, 2);
  double result = 0;
  switch (word(info, 1)) {
    case 0:
      result = d.device->newProgram(id);
      break;
    case 1:
      d.device->enterProgram(id);
      break;
    case 2:
      d.device->leaveProgram();
      break;
    case 3:
      d.device->runProgram(word(info, 3), id);
      break;
    case 4:
      d.device->releaseProgram(id);
      break;
    default:
      result = static_cast<double>(d.device->programBytes(id));
      break;
  }
  return Napi::Number::New(info.Env(), result);
}

// trim(device): waits for the queue and gives cached memory back to the system
Napi::Value Trim(const Napi::CallbackInfo& info) {
  OpenDevice& d = device(info);
  d.device->storage().trim();
  account(info.Env(), *d.device);
  return info.Env().Undefined();
}

// stats(device, resetPeak) -> counters; `damagedGuards` waits for the queue and is only looked at in the guard mode
Napi::Value Stats(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Device& d = *device(info).device;
  const infinity::StorageStats s = d.storage().stats();
  auto out = Napi::Object::New(env);
  const auto put = [&](const char* key, double v) { out.Set(key, Napi::Number::New(env, v)); };
  put("liveTensors", static_cast<double>(s.liveTensors));
  put("liveBytes", static_cast<double>(s.liveBytes));
  put("cachedBytes", static_cast<double>(s.cachedBytes));
  put("peakBytes", static_cast<double>(s.peakBytes));
  put("limitBytes", static_cast<double>(s.limitBytes));
  if (info[1].ToBoolean()) d.storage().resetPeak();
  put("commands", static_cast<double>(d.queue().submitted()));
  put("launches", static_cast<double>(d.backend().launches()));
  put("threads", d.backend().threads());
  if (d.guarded()) {
    d.queue().drain();
    put("damagedGuards", d.storage().damagedGuards());
  }
  out.Set("backend", d.backend().name());
  return out;
}

// decisions(device) -> what was chosen for products so far, a line each
Napi::Value Decisions(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), device(info).device->backend().decisions());
}

// capabilities() -> { isas, memory, processors, ops, opsDigest }
Napi::Value Capabilities(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto out = Napi::Object::New(env);
  auto isas = Napi::Array::New(env);
  for (uint32_t i = 0; i < infinity::kIsaCount; ++i) {
    const auto isa = static_cast<infinity::Isa>(i);
    if (infinity::isaUsable(isa)) isas.Set(isas.Length(), Napi::String::New(env, infinity::isaName(isa)));
  }
  out.Set("isas", isas);
  out.Set("memory", Napi::Number::New(env, static_cast<double>(infinity::availableMemory())));
  out.Set("processors", Napi::Number::New(env, infinity::availableProcessors()));
  out.Set("ops", Napi::Number::New(env, infinity::kOpCount));
  out.Set("opsDigest", Napi::Number::New(env, infinity::kOpsDigest));
  return out;
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  auto* self = new Instance(env);
  env.SetInstanceData<Instance>(self);
  // Before the environment goes: stop the queues, so that nothing touches memory which JavaScript is about to release.
  env.AddCleanupHook([](Instance* i) { i->devices.clear(); }, self);
  const auto add = [&](const char* name, auto fn) { exports.Set(name, Napi::Function::New(env, fn, name)); };
  add("open", guarded<Open>);
  add("close", guarded<Close>);
  add("submit", guarded<Submit>);
  add("alloc", guarded<Alloc>);
  add("free", guarded<Free>);
  add("upload", guarded<Upload>);
  add("read", guarded<Read>);
  add("sync", guarded<Sync>);
  add("token", guarded<TokenCall>);
  add("program", guarded<ProgramCall>);
  add("trim", guarded<Trim>);
  add("stats", guarded<Stats>);
  add("decisions", guarded<Decisions>);
  add("capabilities", guarded<Capabilities>);
  return exports;
}

}  // namespace

NODE_API_MODULE(node_infinity, Init)
