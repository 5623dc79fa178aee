// Rows of a table, picked by ids.
#pragma once
#include "core/tensor.h"

namespace infinity {

// False when an id is outside [0, rows): checked before anything is read or written.
inline bool idsInRange(const TensorView& ids, int64_t rows) {
  const int32_t* id = ids.as<int32_t>();
  for (int64_t i = 0; i < ids.size(); ++i)
    if (id[i] < 0 || id[i] >= rows) return false;
  return true;
}

}  // namespace infinity
