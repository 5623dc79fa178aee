#include "core/env.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace infinity {
namespace {

std::string text(const char* name) {
  const char* v = std::getenv(name);
  return v ? v : "";
}

// A cgroup file holds one number, or "max" for no limit.
size_t numberInFile(const char* path) {
  FILE* f = std::fopen(path, "r");
  if (!f) return 0;
  unsigned long long n = 0;
  const int got = std::fscanf(f, "%llu", &n);
  std::fclose(f);
  return got == 1 ? static_cast<size_t>(n) : 0;
}

}  // namespace

EnvSwitches readEnv() {
  EnvSwitches s;
  s.isa = text("NODE_INFINITY_CPU_ISA");
  s.threads = std::atoi(text("NODE_INFINITY_THREADS").c_str());
  s.memoryLimit = static_cast<size_t>(std::strtoull(text("NODE_INFINITY_MEMORY_LIMIT").c_str(), nullptr, 10));
  s.trace = text("NODE_INFINITY_TRACE");
  s.guard = text("NODE_INFINITY_DEBUG").find("guard") != std::string::npos;
  return s;
}

int availableProcessors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    const int n = CPU_COUNT(&set);
    if (n > 0) return n;
  }
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n ? static_cast<int>(n) : 1;
}

size_t availableMemory() {
  size_t bytes = 0;
#if defined(_SC_PHYS_PAGES)
  bytes = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
#endif
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    const size_t limit = numberInFile(path);
    if (limit && (!bytes || limit < bytes)) bytes = limit;
  }
  return bytes ? bytes : size_t{4} << 30;
}

}  // namespace infinity
