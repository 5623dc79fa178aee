// The op table: ops.def seen from C++.
#pragma once
#include <cstdint>
#include <initializer_list>

namespace infinity {

enum class OpId : uint16_t {
#define OP(name, inputs, outputs, params) name,
#include "../ops.def"
#undef OP
  count
};

constexpr uint32_t kMany = ~0u;  // a count of operands that a parameter decides

struct OpInfo {
  const char* name;
  uint32_t inputs;
  uint32_t outputs;
  const char* params;  // "u:heads f:eps": one 32-bit word each
};

const OpInfo& opInfo(OpId id);
constexpr uint32_t kOpCount = static_cast<uint32_t>(OpId::count);

// FNV-1a over the lines of ops.def. The addon, the CUDA library and lib/ops are built apart: they compare it before any
// of them takes a number for an op. scripts/generate-ops.mjs computes the same.
constexpr uint32_t digestOps() {
  uint32_t hash = 2166136261u;
  for (const char* line : {
#define OP(name, inputs, outputs, params) #name "," #inputs "," #outputs "," params ";",
#include "../ops.def"
#undef OP
       })
    for (; *line; ++line) hash = (hash ^ static_cast<unsigned char>(*line)) * 16777619u;
  return hash;
}
constexpr uint32_t kOpsDigest = digestOps();

}  // namespace infinity
