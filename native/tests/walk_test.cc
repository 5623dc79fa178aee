// Division by multiplication against the processor's, and walks in 32 and 64 bits against each other: tensors of 2^31
// elements are too large for the tests of ops.
#include "tests/simt.h"
// Above: what the header below takes from the CUDA language.
#include "cuda/walk.cuh"
#include "tests/expect.h"

int main() {
  using namespace infinity::cuda;
  constexpr uint32_t most = 0x7fffffff;
  uint32_t state = 1;
  const auto next = [&state] { return state = state * 1664525 + 1013904223; };
  const auto check = [](uint32_t by, uint32_t n) { EXPECT(Divisor<uint32_t>(int64_t{by}).divide(n) == n / by); };
  for (uint32_t i = 0; i < 1000000; ++i) {
    const uint32_t by = 1 + (next() >> (1 + i % 31)), n = next() >> 1;
    check(by, n);
    check(by, most);
    check(by, n / by * by);
    if (n / by) check(by, n / by * by - 1);
  }
  for (uint32_t bit = 0; bit < 31; ++bit)
    for (const uint32_t by : {(1u << bit) - (bit > 0), 1u << bit, (1u << bit) + 1})
      for (const uint32_t n : {0u, by - 1, by, by == most ? by : by + 1, most}) check(by, n);

  Walk<uint32_t, 2> narrow;
  Walk<uint64_t, 2> wide;
  const int64_t extents[] = {3, 1, 7, 10};
  for (int axis = 0; axis < 4; ++axis) {
    narrow.add(extents[axis], int64_t{100} - axis, int64_t{0} + axis);
    wide.add(extents[axis], int64_t{100} - axis, int64_t{0} + axis);
  }
  for (uint32_t i = 0; i < 210; ++i) {
    uint32_t at32[2];
    uint64_t at64[2];
    narrow.seek(i, at32);
    wide.seek(i, at64);
    const uint32_t index[] = {i / 70, 0, i / 10 % 7, i % 10};
    const uint32_t want0 = index[0] * 100 + index[2] * 98 + index[3] * 97, want1 = index[2] * 2 + index[3] * 3;
    EXPECT(at32[0] == want0 && at32[1] == want1);
    EXPECT(at64[0] == want0 && at64[1] == want1);
  }
}
