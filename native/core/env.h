// Every NODE_INFINITY_* switch that native code reads, in one table.
#pragma once
#include <cstddef>
#include <string>

namespace infinity {

struct EnvSwitches {
  std::string isa;         // NODE_INFINITY_CPU_ISA: generic | avx2 | avx512 | neon; empty: the best the host has
  int threads = 0;         // NODE_INFINITY_THREADS: 1 to 256; unset (0): the processors this process may use
  size_t memoryLimit = 0;  // NODE_INFINITY_MEMORY_LIMIT: bytes; unset (0): 80 % of what the container allows
  std::string trace;       // NODE_INFINITY_TRACE: path of a Chrome trace written when the device closes
  std::string cublaslt;    // NODE_INFINITY_CUBLASLT: path of cuBLASLt; empty: where the system finds it
  bool guard = false;      // NODE_INFINITY_DEBUG=guard: guard zones around tensors, outputs pre-filled with NaN
};

// Read afresh at every device, so that tests can set them. Throws CoreError INVALID_ARGUMENT for a value that means
// nothing.
EnvSwitches readEnv();
int availableProcessors();
size_t availableMemory();

}  // namespace infinity
