#include "core/env.h"

#include <cerrno>
#include <cstdint>
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

#include "core/error.h"

namespace infinity {
namespace {

std::string text(const char* name) {
  const char* v = std::getenv(name);
  return v ? v : "";
}

[[noreturn]] void refuse(const char* name, const std::string& expected, const std::string& value) {
  throw CoreError("INVALID_ARGUMENT", "Expected " + expected + " for " + name + " but received '" + value + "'.");
}

// 0 where the switch is not set. Digits only: "4G" must not become four bytes.
unsigned long long number(const char* name, const char* expected, unsigned long long most) {
  const std::string v = text(name);
  if (v.empty()) return 0;
  errno = 0;
  const unsigned long long n = std::strtoull(v.c_str(), nullptr, 10);
  if (v.find_first_not_of("0123456789") != std::string::npos || errno || n < 1 || n > most) refuse(name, expected, v);
  return n;
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
  s.threads = static_cast<int>(number("NODE_INFINITY_THREADS", "an integer from 1 to 256", 256));
  s.memoryLimit =
      static_cast<size_t>(number("NODE_INFINITY_MEMORY_LIMIT", "a positive number of bytes", uint64_t{1} << 53));
  s.trace = text("NODE_INFINITY_TRACE");
  s.cublaslt = text("NODE_INFINITY_CUBLASLT");
  const std::string debug = text("NODE_INFINITY_DEBUG");
  if (!debug.empty() && debug != "guard") refuse("NODE_INFINITY_DEBUG", "guard", debug);
  s.guard = !debug.empty();
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
