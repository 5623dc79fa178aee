// A device without Node: commands go in as words, as lib/ops/run.ts writes them.
#include "core/device.h"

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include "cpu/backend.h"
#include "tests/expect.h"

using infinity::CpuBackend;
using infinity::Device;
using infinity::DType;
using infinity::Isa;
using infinity::OpId;
using infinity::test::codeOf;

namespace {

std::vector<uint32_t> commandWords(OpId op, uint32_t input, uint32_t n) {
  const auto f32 = static_cast<uint32_t>(DType::f32);
  std::vector<uint32_t> words = {static_cast<uint32_t>(op), 0, 1, 1, 0};
  words.insert(words.end(), {input, f32, 0, 0, 1, n});
  words.insert(words.end(), {0, f32, 0, 0, 1, n});
  words.resize(64);
  return words;
}

uint32_t submitUnary(Device& device, OpId op, uint32_t input, uint32_t n) {
  auto words = commandWords(op, input, n);
  device.submit(words.data(), static_cast<uint32_t>(words.size()));
  return words[0];
}

void geluIsRight(const char* isa) {
  Device device(std::make_unique<CpuBackend>(isa, 2), {.memoryLimit = 1 << 24},
                [](uint64_t, const infinity::Failure*) {});
  for (uint32_t n : {1u, 15u, 31u, 33u, 16385u, 40000u}) {
    std::vector<float> x(n), y(n);
    for (uint32_t i = 0; i < n; ++i) x[i] = static_cast<float>(i % 97) * 0.1f - 4.8f;
    const uint32_t input = device.allocate(n * sizeof(float));
    device.upload(0, input, 0, x.data(), n * sizeof(float));
    const uint32_t output = submitUnary(device, OpId::gelu, input, n);
    device.read(0, output, 0, y.data(), n * sizeof(float), 1);
    device.queue().drain();
    for (uint32_t i = 0; i < n; ++i) {
      const double v = x[i];
      const double expected = 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
      EXPECT(std::abs(y[i] - expected) < 2e-6 * (1 + std::abs(expected)));
    }
    device.release(input);
    device.release(output);
  }
  EXPECT(device.storage().stats().liveTensors == 0);
}

// Σ x² of `tensors` tensors, the k-th of 1 + k sixes; words as long as the list asks for.
std::vector<uint32_t> listWords(const std::vector<uint32_t>& tensors) {
  const auto f32 = static_cast<uint32_t>(DType::f32), n = static_cast<uint32_t>(tensors.size());
  std::vector<uint32_t> words = {static_cast<uint32_t>(OpId::sum_squares), 0, n, 1, 1};
  for (uint32_t k = 0; k < n; ++k) words.insert(words.end(), {tensors[k], f32, 0, 0, 1, 1 + k});
  words.insert(words.end(), {0, f32, 0, 0, 1, n, n});
  words.resize(words.size() + 64);
  return words;
}

void aListIsOneCommand(const char* isa) {
  Device device(std::make_unique<CpuBackend>(isa, 2), {.memoryLimit = 1 << 24},
                [](uint64_t, const infinity::Failure*) {});
  std::vector<uint32_t> tensors;
  for (uint32_t k = 0; k < 384; ++k) {
    const std::vector<float> sixes(1 + k, 6.0f);
    tensors.push_back(device.allocate(sixes.size() * sizeof(float)));
    device.upload(0, tensors[k], 0, sixes.data(), sixes.size() * sizeof(float));
  }
  auto words = listWords(tensors);  // with its output one operand too many
  EXPECT(codeOf([&] { device.submit(words.data(), static_cast<uint32_t>(words.size())); }) == "INTERNAL");
  words = listWords({tensors.begin(), tensors.end() - 1});
  device.submit(words.data(), static_cast<uint32_t>(words.size()));
  std::vector<float> sums(383);
  device.read(0, words[0], 0, sums.data(), sums.size() * sizeof(float), 1);
  device.queue().drain();
  for (size_t k = 0; k < sums.size(); ++k) EXPECT(sums[k] == 36.0f * static_cast<float>(1 + k));
  device.release(words[0]);
  for (uint32_t tensor : tensors) device.release(tensor);
  EXPECT(device.storage().stats().liveTensors == 0);
}

void longListsAreToldByTheirFirstTensors() {
  std::vector<infinity::TensorView> views(15);
  for (auto& v : views) v.data = &v;
  EXPECT(infinity::describeCommand(OpId::sum_squares, views.data(), 14, 1) ==
         "sum_squares(f32[], f32[], f32[], f32[], f32[], f32[], f32[], f32[], f32[], f32[], f32[], f32[], and 2 more)"
         " -> f32[]");
}

void badCommandsLeaveNothingBehind() {
  Device device(std::make_unique<CpuBackend>("generic", 1), {.memoryLimit = 1 << 20},
                [](uint64_t, const infinity::Failure*) {});
  const uint32_t input = device.allocate(64);
  EXPECT(codeOf([&] { submitUnary(device, OpId::count, input, 16); }) == "INTERNAL");
  EXPECT(codeOf([&] { submitUnary(device, OpId::gelu, input, 17); }) == "INTERNAL");  // beyond its storage
  EXPECT(codeOf([&] { submitUnary(device, OpId::gelu, input + 1, 16); }) == "DISPOSED");
  auto words = commandWords(OpId::gelu, input, 16);
  words[16 - 5 + 1] = 99;  // the output's type
  EXPECT(codeOf([&] { device.submit(words.data(), 64); }) == "INTERNAL");
  words = commandWords(OpId::gelu, input, 16);
  EXPECT(codeOf([&] { device.submit(words.data(), 12); }) == "INTERNAL");
  words[1] = 12345;
  EXPECT(codeOf([&] { device.submit(words.data(), 64); }) == "DISPOSED");
  device.release(input);
  EXPECT(device.storage().stats().liveTensors == 0);
  EXPECT(codeOf([] { CpuBackend("sse9", 1); }) == "INVALID_ARGUMENT");
}

void switchesThatMeanNothingAreRefused() {
  const auto codeWith = [](const char* name, const char* value) {
    setenv(name, value, 1);
    const std::string code = codeOf([] { infinity::readEnv(); });
    unsetenv(name);
    return code;
  };
  for (const char* threads : {"two", "-1", "0", "257", "2.5", " 2"})
    EXPECT(codeWith("NODE_INFINITY_THREADS", threads) == "INVALID_ARGUMENT");
  for (const char* limit : {"4G", "-1", "0", "99999999999999999999"})
    EXPECT(codeWith("NODE_INFINITY_MEMORY_LIMIT", limit) == "INVALID_ARGUMENT");
  EXPECT(codeWith("NODE_INFINITY_DEBUG", "gaurd") == "INVALID_ARGUMENT");
  setenv("NODE_INFINITY_THREADS", "2", 1);
  setenv("NODE_INFINITY_MEMORY_LIMIT", "1048576", 1);
  setenv("NODE_INFINITY_DEBUG", "", 1);
  const infinity::EnvSwitches env = infinity::readEnv();
  EXPECT(env.threads == 2 && env.memoryLimit == 1048576 && !env.guard);
  for (const char* name : {"NODE_INFINITY_THREADS", "NODE_INFINITY_MEMORY_LIMIT", "NODE_INFINITY_DEBUG"})
    unsetenv(name);
}

}  // namespace

int main() {
  for (Isa isa : {Isa::generic, Isa::avx2, Isa::avx512, Isa::neon})
    if (infinity::isaUsable(isa)) {
      geluIsRight(infinity::isaName(isa));
      aListIsOneCommand(infinity::isaName(isa));
    }
  longListsAreToldByTheirFirstTensors();
  badCommandsLeaveNothingBehind();
  switchesThatMeanNothingAreRefused();
}
