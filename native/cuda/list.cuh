// Many tensors in one launch: a list is cut into pieces, a block each. The table of the tensors is an argument of the
// kernel, so that nothing is copied to the card before it.
#pragma once
#include "cuda/launch.h"

namespace infinity::cuda {

// A kernel takes it as `const __grid_constant__`, so that it is read where the arguments are. Columns: pointers that
// belong together.
template <int Columns>
struct TensorTable {
  // Arguments of a kernel are 4 KiB; the rest is for others beside the table.
  static constexpr int kRows = (4096 - 144) / (8 * Columns + 12);

  void* at[Columns][kRows];
  int64_t size[kRows];
  uint32_t end[kRows];  // pieces of this row and of those before
  int rows = 0;

  // Host: one more row; true while there is room for another. Sizes are not 0.
  bool add(void* const (&pointers)[Columns], int64_t elements, int64_t perPiece) {
    for (int c = 0; c < Columns; ++c) at[c][rows] = pointers[c];
    size[rows] = elements;
    end[rows] = pieces() + static_cast<uint32_t>(ceilDiv(elements, perPiece));
    return ++rows < kRows;
  }
  uint32_t pieces() const { return rows ? end[rows - 1] : 0; }

  __device__ __forceinline__ uint32_t begin(int row) const { return row ? end[row - 1] : 0; }
  // The row that a piece belongs to.
  __device__ __forceinline__ int rowOf(uint32_t piece) const {
    int low = 0;
    for (int high = rows - 1; low < high;) {
      const int middle = (low + high) / 2;
      if (end[middle] <= piece)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
};

// Calls f(table, first) for parts of a list of n tensors that fit a table each; `fill(table, k)` adds tensor k.
template <int Columns, class Fill, class F>
void forTables(int64_t n, const Fill& fill, const F& f) {
  for (int64_t k = 0; k < n;) {
    TensorTable<Columns> table;
    const int64_t first = k;
    while (k < n && fill(table, k++)) {
    }
    f(table, first);
  }
}

}  // namespace infinity::cuda
