// The op table: ops.def seen from C++.
#pragma once
#include <cstdint>

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

}  // namespace infinity
