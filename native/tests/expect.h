// The whole test framework: a failed expectation names itself and ends the test program with 1.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <string>

#include "core/error.h"

namespace infinity::test {

inline void expect(bool condition, const char* text, const char* file, int line) {
  if (condition) return;
  std::fprintf(stderr, "%s:%d: expected %s\n", file, line, text);
  std::exit(1);
}

// The code of the CoreError that `fn` throws, or "none".
template <class F>
std::string codeOf(const F& fn) {
  try {
    fn();
  } catch (const CoreError& error) {
    return error.code;
  }
  return "none";
}

}  // namespace infinity::test

#define EXPECT(condition) ::infinity::test::expect((condition), #condition, __FILE__, __LINE__)
