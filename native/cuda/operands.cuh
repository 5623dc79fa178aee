// Where a matrix product's operands come from. A loader names elements by row m and term k of the sum; its neighbours
// in memory run along k (kSumFast) or along m. Threads of a product keep m and walk along k, so that what is dear to
// work out about a row is worked out once, in a Line:
//   Line line(int m)                 m may lie outside
//   const Element* at(Line, int k)   null where the operand is zero: outside, or in a picture's margin
// `whole`: chunks of neighbours, aligned to their size, lie inside or outside as a whole and may be read at once.
#pragma once
#include "cuda/element.cuh"
#include "cuda/product.h"

namespace infinity::cuda {

// Elements of a chunk: 16 bytes of f32 or bf16 when products are of that type; bf16 weights for f32 products have 8.
template <class Product>
constexpr int kChunk = kPerPack<Product>;

// Whether all rows of a matrix that starts at `data` can be read in chunks along `extent`. Host code.
template <class Product, class T>
bool inChunks(const T* data, int64_t extent) {
  constexpr int n = kChunk<Product>;
  return reinterpret_cast<uintptr_t>(data) % (n * sizeof(T)) == 0 && extent % n == 0;
}

// (m, k) at data[m·sums + k]; part p begins `part` elements further
template <class T>
struct MatrixRows {
  using Element = T;
  static constexpr bool kSumFast = true;
  const T* data;
  int rows, sums;
  bool whole;
  int64_t part = 0;

  struct Line {
    int m;
  };
  __device__ __forceinline__ Line line(int m) const { return {m}; }
  __device__ __forceinline__ const T* at(const Line& line, int k) const {
    return line.m < rows && k < sums ? data + (static_cast<int64_t>(line.m) * sums + k) : nullptr;
  }
  __device__ __forceinline__ MatrixRows select(int p) const {
    MatrixRows selected = *this;
    selected.data += p * part;
    return selected;
  }
};
template <class Product, class T>
MatrixRows<T> matrixRows(const T* data, int64_t rows, int64_t sums, int64_t part = 0) {
  return {data, static_cast<int>(rows), static_cast<int>(sums),
          inChunks<Product>(data, sums) && part % kChunk<Product> == 0, part};
}

// (m, k) at data[k·rows + m]
template <class T>
struct MatrixColumns {
  using Element = T;
  static constexpr bool kSumFast = false;
  const T* data;
  int rows, sums;
  bool whole;

  struct Line {
    int m;
  };
  __device__ __forceinline__ Line line(int m) const { return {m}; }
  __device__ __forceinline__ const T* at(const Line& line, int k) const {
    return line.m < rows && k < sums ? data + (static_cast<int64_t>(k) * rows + line.m) : nullptr;
  }
  __device__ __forceinline__ MatrixColumns select(int) const { return *this; }
};
template <class Product, class T>
MatrixColumns<T> matrixColumns(const T* data, int64_t rows, int64_t sums) {
  return {data, static_cast<int>(rows), static_cast<int>(sums), inChunks<Product>(data, rows)};
}

// Calls put(i, x) with the N elements of the chunk at (m, k), one by one: ragged ends, odd addresses. In few registers,
// which belong to the chunks that are whole.
template <int N, class Loader, class Put>
__device__ __forceinline__ void gatherChunk(const Loader& from, int m, int k, const Put& put) {
  const auto value = [](const auto* p) { return p ? *p : typename Loader::Element{}; };
  if constexpr (Loader::kSumFast) {
    const auto line = from.line(m);
#pragma unroll
    for (int i = 0; i < N; ++i) put(i, value(from.at(line, k + i)));
  } else {
#pragma unroll 1
    for (int i = 0; i < N; ++i) put(i, value(from.at(from.line(m + i), k)));
  }
}

// The block's place in its product: which outputs, which terms of the sum.
struct ProductGrid {
  int rows, columns, sums;
  int rowTiles, columnTiles;
  int splits, splitLength;
};
inline ProductGrid gridOf(const ProductShape& shape, const ProductPlan& plan) {
  const auto tiles = [](int64_t n, int tile) { return static_cast<int>(ceilDiv(n, tile)); };
  return {static_cast<int>(shape.rows),      static_cast<int>(shape.columns),         static_cast<int>(shape.sums),
          tiles(shape.rows, plan.tile.rows), tiles(shape.columns, plan.tile.columns), plan.splits,
          static_cast<int>(plan.splitLength)};
}
struct BlockWork {
  int row, column;    // the first of the tile
  int first, last;    // terms [first, last) of the sum
  int part;           // of the product
  int piece;          // part · splits + split: where partial results lie
  bool firstColumns;  // the tile holds column 0
};
// Tiles are visited in bands of eight rows of tiles, so that blocks that run together share what they read.
__device__ __forceinline__ BlockWork tileWork(const ProductGrid& g, int id, int piece, int tileRows, int tileColumns) {
  constexpr int kBand = 8;
  const int band = id / (kBand * g.columnTiles), within = id % (kBand * g.columnTiles);
  const int height = min(kBand, g.rowTiles - band * kBand);
  const int row = band * kBand + within % height, column = within / height;
  const int first = piece % g.splits * g.splitLength;
  return {row * tileRows, column * tileColumns, first, min(g.sums - first, g.splitLength) + first, piece / g.splits,
          piece,          column == 0};
}
__device__ __forceinline__ BlockWork blockWork(const ProductGrid& g, int tileRows, int tileColumns) {
  return tileWork(g, static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), tileRows, tileColumns);
}

// ---- what epilogues read and write; what they leave besides, and what they have to know, is told by four constants:
// kRowSums of A, kMoments of columns of the result, kRowMoments of its rows; kRowFacts: they are selected with a fact
// of each row of the tile, which their `rows` works out.

// A tensor of f32 or bf16 as floats; `data` null: left out.
struct Floats {
  void* data;
  bool half;

  __device__ __forceinline__ explicit operator bool() const { return data != nullptr; }
  // W neighbours from element `at`: at once when `whole`, else the first n.
  template <int W>
  __device__ __forceinline__ void read(int64_t at, bool whole, int n, float (&to)[W]) const {
    if (half)
      readAs(static_cast<const bf16*>(data) + at, whole, n, to);
    else
      readAs(static_cast<const float*>(data) + at, whole, n, to);
  }
  template <int W>
  __device__ __forceinline__ void write(int64_t at, bool whole, int n, const float (&from)[W]) const {
    if (half)
      writeAs(static_cast<bf16*>(data) + at, whole, n, from);
    else
      writeAs(static_cast<float*>(data) + at, whole, n, from);
  }

 private:
  template <int W, class T>
  __device__ __forceinline__ static void readAs(const T* p, bool whole, int n, float (&to)[W]) {
    if (whole) {
      const Pack<T, W> pack = loadPack<W>(p);
#pragma unroll
      for (int i = 0; i < W; ++i) to[i] = toFloat(pack.v[i]);
    } else {
#pragma unroll
      for (int i = 0; i < W; ++i) to[i] = i < n ? toFloat(p[i]) : 0.0f;
    }
  }
  template <int W, class T>
  __device__ __forceinline__ static void writeAs(T* p, bool whole, int n, const float (&from)[W]) {
    if (whole) {
      Pack<T, W> pack;
#pragma unroll
      for (int i = 0; i < W; ++i) pack.v[i] = fromFloat<T>(from[i]);
      storePack(p, pack);
    } else {
#pragma unroll
      for (int i = 0; i < W; ++i)
        if (i < n) p[i] = fromFloat<T>(from[i]);
    }
  }
};
inline Floats floatsOf(const TensorView& t) { return {t.data, t.dtype == DType::bf16}; }

// Whether `columns` neighbours of this tensor may be read four at a time. Host code.
constexpr int kEpilogueWidth = 4;
inline bool inQuads(const TensorView& t, int64_t columns) {
  return columns % kEpilogueWidth == 0 &&
         reinterpret_cast<uintptr_t>(t.data) % (kEpilogueWidth * dtypeBytes(t.dtype)) == 0;
}

// The epilogue of a block's work, with the facts of its rows where it has to know them.
template <class Epilogue, class Facts>
__device__ __forceinline__ decltype(auto) selectEpilogue(const Epilogue& epilogue, const BlockWork& work,
                                                         const Facts& facts) {
  if constexpr (Epilogue::kRowFacts)
    return epilogue.select(work, facts);
  else
    return epilogue.select(work);
}

// Partial results of pieces, or a whole result when there is one piece, [piece, rows, columns] in f32; and the sums of
// A's rows beside them, [piece, rows].
struct PartialSums {
  static constexpr bool kRowSums = true, kMoments = false, kRowMoments = false, kRowFacts = false;
  float* data;
  float* rowSums;
  int rows, columns;
  bool whole;

  __device__ __forceinline__ PartialSums select(const BlockWork& work) const {
    PartialSums selected = *this;
    selected.data += static_cast<int64_t>(work.piece) * rows * columns;
    selected.rowSums += static_cast<int64_t>(work.piece) * rows;
    return selected;
  }
  template <int W>
  __device__ __forceinline__ void operator()(int row, int column, float (&sum)[W]) const {
    Floats{data, false}.write(static_cast<int64_t>(row) * columns + column, whole, columns - column, sum);
  }
  __device__ __forceinline__ void rowSum(int row, float sum) const { rowSums[row] = sum; }
};

}  // namespace infinity::cuda
