#include "core/ops.h"

namespace infinity {

const OpInfo& opInfo(OpId id) {
  static const OpInfo table[] = {
#define OP(name, inputs, outputs, params) {#name, inputs, outputs, params},
#include "../ops.def"
#undef OP
      {"", 0, 0, ""}};
  return table[static_cast<uint32_t>(id)];
}

}  // namespace infinity
