// Failures travel as values: a kernel reports, the queue stores it in the command's token, a read rejects with it.
#pragma once
#include <stdexcept>
#include <string>

namespace infinity {

struct Failure {
  std::string code;     // an InfinityErrorCode of lib/errors.ts
  std::string message;  // names the op and the shapes
};

// Thrown on the JavaScript thread only, at the call that caused it.
class CoreError : public std::runtime_error {
 public:
  CoreError(const char* code, const std::string& message, double needed = -1, double free = -1)
      : std::runtime_error(message), code(code), needed(needed), free(free) {}
  const char* code;
  double needed, free;  // bytes, for OUT_OF_MEMORY
};

}  // namespace infinity
