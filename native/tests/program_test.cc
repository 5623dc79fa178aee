// Programs of a device without Node: recorded on one thread, run on the queue's, let go while they may be running.
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include "core/device.h"
#include "cpu/backend.h"
#include "tests/expect.h"

using infinity::Backend;
using infinity::CpuBackend;
using infinity::Device;
using infinity::DType;
using infinity::KernelCall;
using infinity::KernelRef;
using infinity::OpId;
using infinity::test::codeOf;

namespace {

// A processor that keeps recorded work, as a card does: the calls, by value.
class RecordingBackend : public CpuBackend {
 public:
  using Work = std::vector<std::function<void()>>;
  RecordingBackend(int* kept, bool refuses) : CpuBackend("generic", 2), kept_(kept), refuses_(refuses) {}

  void* record(const std::function<void()>& commands) override {
    if (refuses_) return nullptr;
    auto work = std::make_unique<Work>();
    work_ = work.get();
    commands();
    work_ = nullptr;
    ++*kept_;
    return work.release();
  }
  void run(const KernelRef& kernel, const KernelCall& call, infinity::Failure* failure) override {
    if (!work_) return CpuBackend::run(kernel, call, failure);
    work_->emplace_back([this, kernel, call] {
      infinity::Failure ignored;
      CpuBackend::run(kernel, call, &ignored);
    });
  }
  void replay(void* recording, uint32_t, infinity::Failure*) override {
    for (const auto& work : *static_cast<Work*>(recording)) work();
  }
  void forget(void* recording) override {
    --*kept_;
    delete static_cast<Work*>(recording);
  }

 private:
  int* kept_;  // recordings that live
  bool refuses_;
  Work* work_ = nullptr;
};

constexpr uint32_t kElements = 1000;

uint32_t submitUnary(Device& device, OpId op, uint32_t input) {
  const auto f32 = static_cast<uint32_t>(DType::f32);
  std::vector<uint32_t> words = {static_cast<uint32_t>(op), 0, 1, 1, 0};
  words.insert(words.end(), {input, f32, 0, 0, 1, kElements});
  words.insert(words.end(), {0, f32, 0, 0, 1, kElements});
  words.resize(64);
  device.submit(words.data(), static_cast<uint32_t>(words.size()));
  return words[0];
}

// |x²|, by way of a tensor that is let go while the program is recorded.
uint32_t record(Device& device, uint32_t program, uint32_t input) {
  device.enterProgram(program);
  const uint32_t between = submitUnary(device, OpId::square, input);
  const uint32_t result = submitUnary(device, OpId::abs, between);
  device.release(between);
  device.leaveProgram();
  return result;
}

void programsRunAndGo(bool refuses) {
  int kept = 0;
  {
    Device device(std::make_unique<RecordingBackend>(&kept, refuses), {.memoryLimit = 1 << 24},
                  [](uint64_t, const infinity::Failure*) {});
    const uint32_t input = device.allocate(kElements * sizeof(float));
    for (int round = 0; round < 20; ++round) {
      const uint32_t program = device.newProgram(0), second = device.newProgram(program);
      const uint32_t squared = record(device, program, input), again = record(device, second, squared);
      std::vector<std::vector<float>> read(5, std::vector<float>(kElements));
      for (size_t run = 0; run < read.size(); ++run) {
        const std::vector<float> x(kElements, static_cast<float>(run) - 2);
        device.upload(0, input, 0, x.data(), kElements * sizeof(float));
        device.runProgram(0, program);
        device.runProgram(0, second);
        device.read(0, again, 0, read[run].data(), kElements * sizeof(float), 1 + run);
      }
      // Nothing waits: what was submitted before runs on memory that only later commands may get.
      device.releaseProgram(program);
      EXPECT(device.storage().stats().liveTensors == 3);
      device.releaseProgram(second);
      device.release(squared);
      device.release(again);
      const uint32_t other = submitUnary(device, OpId::abs, input);
      device.release(other);
      device.queue().drain();
      const float want[] = {16, 1, 0, 1, 16};
      for (size_t run = 0; run < read.size(); ++run)
        for (float y : read[run]) EXPECT(y == want[run]);
    }
    const uint32_t last = device.newProgram(0);
    record(device, last, input);
    for (int run = 0; run < 100; ++run) device.runProgram(0, last);
    // The device goes with programs in its queue, and with one that nobody let go.
  }
  EXPECT(kept == 0);
}

void memoryOfProgramsIsTheirOwn() {
  Device device(std::make_unique<CpuBackend>("generic", 1), {.memoryLimit = 1 << 20},
                [](uint64_t, const infinity::Failure*) {});
  const uint32_t input = device.allocate(kElements * sizeof(float));
  const uint64_t before = device.storage().stats().liveBytes;
  const uint32_t program = device.newProgram(0);
  const uint32_t result = record(device, program, input);
  EXPECT(device.storage().stats().liveBytes == 3 * before);
  EXPECT(device.programBytes(program) == 2 * before);
  EXPECT(device.storage().stats().cachedBytes == 0);
  device.release(result);
  EXPECT(device.storage().stats().liveBytes == 3 * before);  // its next run writes it again
  EXPECT(codeOf([&] { device.allocate((1 << 20) - 3 * before + 64); }) == "OUT_OF_MEMORY");
  device.releaseProgram(program);
  EXPECT(device.storage().stats().liveBytes == before);
  EXPECT(device.storage().stats().cachedBytes == 2 * before);
  EXPECT(codeOf([&] { device.runProgram(0, program); }) == "DISPOSED");
  device.release(input);
}

void programsOnlyCompute() {
  Device device(std::make_unique<CpuBackend>("generic", 1), {.memoryLimit = 1 << 20},
                [](uint64_t, const infinity::Failure*) {});
  const uint32_t input = device.allocate(kElements * sizeof(float)), program = device.newProgram(0);
  float one = 1;
  device.enterProgram(program);
  EXPECT(codeOf([&] { device.upload(0, input, 0, &one, sizeof one); }) == "INVALID_ARGUMENT");
  EXPECT(codeOf([&] { device.read(0, input, 0, &one, sizeof one, 1); }) == "INVALID_ARGUMENT");
  EXPECT(codeOf([&] { device.sync(0, 1); }) == "INVALID_ARGUMENT");
  EXPECT(codeOf([&] { device.runProgram(0, program); }) == "INVALID_ARGUMENT");
  EXPECT(codeOf([&] { device.enterProgram(program); }) == "INVALID_ARGUMENT");
  device.leaveProgram();
  device.runProgram(0, program);
  EXPECT(codeOf([&] { device.enterProgram(program); }) == "INVALID_ARGUMENT");  // it has run
  device.queue().drain();
}

}  // namespace

int main() {
  for (const bool refuses : {false, true}) programsRunAndGo(refuses);
  memoryOfProgramsIsTheirOwn();
  programsOnlyCompute();
}
