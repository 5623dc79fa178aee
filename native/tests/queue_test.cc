#include "core/queue.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cpu/backend.h"
#include "tests/expect.h"

using infinity::Command;
using infinity::CpuBackend;
using infinity::DType;
using infinity::Failure;
using infinity::KernelArgs;
using infinity::KernelEntry;
using infinity::OpId;
using infinity::Queue;
using infinity::TensorView;
using infinity::Token;
using infinity::TokenPtr;

namespace {

// What the completions said: a code by completion number, empty for success.
struct Completions {
  std::mutex mutex;
  std::map<uint64_t, Failure> told;
  Queue::OnComplete callback() {
    return [this](uint64_t completion, const Failure* failure) {
      std::lock_guard<std::mutex> lock(mutex);
      EXPECT(told.count(completion) == 0);
      told[completion] = failure ? *failure : Failure{};
    };
  }
};

TensorView viewOf(float* data, uint32_t n) {
  TensorView v;
  v.data = data;
  v.rank = 1;
  v.dims[0] = n;
  return v;
}

Command commandOf(Command::Kind kind, const TokenPtr& token) {
  Command command;
  command.kind = kind;
  command.token = token;
  return command;
}

// y = 2 y + parameter: the result depends on the order of the commands.
void doubleAndAdd(const KernelArgs& args) {
  float* y = args.out[0].as<float>();
  args.pool->parallelFor(args.out[0].size(), [&](int64_t i) { y[i] = 2 * y[i] + static_cast<float>(args.params[0]); });
}

void refuse(const KernelArgs& args) { args.fail("NUMERICAL", "Expected finite numbers."); }

const KernelEntry kDoubleAndAdd = {"gelu", infinity::Isa::generic, doubleAndAdd, nullptr, nullptr};
const KernelEntry kRefuse = {"gelu", infinity::Isa::generic, refuse, nullptr, nullptr};

void submitKernel(Queue& queue, const TokenPtr& token, const KernelEntry& entry, const TensorView& y,
                  uint32_t parameter) {
  Command command = commandOf(Command::kKernel, token);
  command.op = OpId::gelu;
  command.kernel = {&entry, false};
  command.outputs = 1;
  queue.submit(command, &y, &parameter, 1);
}

void submitCompletion(Queue& queue, const TokenPtr& token, uint64_t completion) {
  Command command = commandOf(Command::kSync, token);
  command.completion = completion;
  queue.submit(command, nullptr, nullptr, 0);
}

void commandsRunInOrder() {
  Completions completions;
  CpuBackend backend("generic", 2);
  Queue queue(backend, "", completions.callback());
  const auto token = std::make_shared<Token>();
  for (int round = 0; round < 200; ++round) {
    std::vector<float> y(5, 1.0f);
    float expected = 1;
    for (uint32_t i = 0; i < 12; ++i) {
      submitKernel(queue, token, kDoubleAndAdd, viewOf(y.data(), 5), i % 3);
      expected = 2 * expected + static_cast<float>(i % 3);
    }
    queue.drain();
    for (float v : y) EXPECT(v == expected);
  }
  EXPECT(queue.submitted() == 2400);
}

void uploadsAndReadsMoveBytes() {
  Completions completions;
  float tensor[4] = {}, out[4] = {};
  {
    CpuBackend backend("generic", 1);
    Queue queue(backend, "", completions.callback());
    const auto token = std::make_shared<Token>();
    Command upload = commandOf(Command::kUpload, token);
    upload.source = std::malloc(sizeof tensor);
    const float values[4] = {1, 2, 3, 4};
    std::memcpy(upload.source, values, sizeof values);
    upload.destination = tensor;
    upload.bytes = sizeof tensor;
    queue.submit(upload, nullptr, nullptr, 0);
    submitKernel(queue, token, kDoubleAndAdd, viewOf(tensor, 4), 1);
    Command read = commandOf(Command::kRead, token);
    read.source = tensor;
    read.destination = out;
    read.bytes = sizeof out;
    read.completion = 7;
    queue.submit(read, nullptr, nullptr, 0);
    queue.drain();
  }
  EXPECT(completions.told.at(7).code.empty());
  EXPECT(out[0] == 3 && out[3] == 9);
}

void aFailureStaysWithItsToken() {
  Completions completions;
  CpuBackend backend("generic", 1);
  Queue queue(backend, "", completions.callback());
  const auto bad = std::make_shared<Token>(), good = std::make_shared<Token>();
  const auto device = std::make_shared<Token>(/*shared=*/true);
  float y[3] = {1, 1, 1}, z[3] = {1, 1, 1};
  submitKernel(queue, bad, kRefuse, viewOf(y, 3), 0);
  submitKernel(queue, bad, kDoubleAndAdd, viewOf(y, 3), 0);  // skipped
  submitKernel(queue, good, kDoubleAndAdd, viewOf(z, 3), 0);
  submitKernel(queue, device, kRefuse, viewOf(y, 3), 0);
  submitCompletion(queue, bad, 1);
  submitCompletion(queue, bad, 2);
  submitCompletion(queue, good, 3);
  submitCompletion(queue, device, 4);
  submitCompletion(queue, device, 5);  // the device's own token is told once
  queue.drain();
  EXPECT(y[0] == 1 && z[0] == 2);
  EXPECT(completions.told.at(1).code == "NUMERICAL" && completions.told.at(2).code == "NUMERICAL");
  EXPECT(completions.told.at(1).message.find("gelu() -> f32[3]") != std::string::npos);
  EXPECT(completions.told.at(3).code.empty());
  EXPECT(completions.told.at(4).code == "NUMERICAL" && completions.told.at(5).code.empty());
}

// Cancelled from another thread at any moment: every completion is told once, and commands stop.
void cancellationStopsATokenOnly() {
  Completions completions;
  float y[2] = {}, z[2] = {};
  {
    CpuBackend backend("generic", 2);
    Queue queue(backend, "", completions.callback());
    for (uint64_t round = 0; round < 200; ++round) {
      const auto cancelled = std::make_shared<Token>(), kept = std::make_shared<Token>();
      for (int i = 0; i < 20; ++i) {
        submitKernel(queue, cancelled, kDoubleAndAdd, viewOf(y, 2), 0);
        submitKernel(queue, kept, kDoubleAndAdd, viewOf(z, 2), 0);
        if (i == static_cast<int>(round % 20)) cancelled->cancel();
      }
      submitCompletion(queue, cancelled, 2 * round);
      submitCompletion(queue, kept, 2 * round + 1);
    }
    queue.drain();
  }
  EXPECT(completions.told.size() == 400);
  for (const auto& [completion, failure] : completions.told) EXPECT(failure.code == (completion % 2 ? "" : "ABORTED"));
}

// Destroyed with work waiting: it is skipped, its memory freed, its completions told.
void destructionTellsEveryCompletion() {
  for (int round = 0; round < 50; ++round) {
    Completions completions;
    std::vector<float> y(1024), target(16);
    {
      CpuBackend backend("generic", 2);
      Queue queue(backend, "", completions.callback());
      const auto token = std::make_shared<Token>();
      for (uint64_t i = 0; i < 40; ++i) {
        submitKernel(queue, token, kDoubleAndAdd, viewOf(y.data(), 1024), 1);
        Command upload = commandOf(Command::kUpload, token);
        upload.bytes = 64;
        upload.source = std::calloc(1, upload.bytes);
        upload.destination = target.data();
        queue.submit(upload, nullptr, nullptr, 0);
        submitCompletion(queue, token, i);
      }
    }
    EXPECT(completions.told.size() == 40);
  }
}

}  // namespace

int main() {
  commandsRunInOrder();
  uploadsAndReadsMoveBytes();
  aFailureStaysWithItsToken();
  cancellationStopsATokenOnly();
  destructionTellsEveryCompletion();
}
