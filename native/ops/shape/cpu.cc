#include "ops/shape/shape.h"

#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/shape/transpose.h"

namespace infinity::INFINITY_ISA {
namespace {

constexpr int64_t kBytesPerTile = 65536;

// ---- runs: `count` pieces of `run` bytes, at regular distances on both sides

void copyRuns(Pool* pool, char* to, int64_t toStride, const char* from, int64_t fromStride, int64_t run,
              int64_t count) {
  if (toStride == run && fromStride == run) {
    run *= count;
    count = 1;
  }
  const int64_t pieces = tilesFor(run, kBytesPerTile), runsPerTile = run >= kBytesPerTile ? 1 : kBytesPerTile / run;
  pool->parallelFor(tilesFor(count, runsPerTile) * pieces, [&](int64_t tile) {
    const int64_t first = tile / pieces * runsPerTile, begin = tile % pieces * kBytesPerTile;
    const int64_t last = count < first + runsPerTile ? count : first + runsPerTile;
    const int64_t bytes = run - begin < kBytesPerTile ? run - begin : kBytesPerTile;
    for (int64_t i = first; i < last; ++i)
      __builtin_memcpy(to + i * toStride + begin, from + i * fromStride + begin, static_cast<size_t>(bytes));
  });
}

// out = x[.., start : start + count, ..]; where count is 1 the output may lack the axis.
void sliceKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<SliceParams>();
  const AxisSplit x(a.in[0], p.axis);
  const int64_t unit = x.inner * static_cast<int64_t>(dtypeBytes(a.in[0].dtype));
  copyRuns(a.pool, a.out[0].as<char>(), p.count * unit, a.in[0].as<char>() + p.start * unit, x.extent * unit,
           p.count * unit, x.outer);
}

// out[.., start : start + x.dims[axis], ..] = x, in place
void writeSliceKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<WriteSliceParams>();
  const AxisSplit x(a.in[0], p.axis), y(a.out[0], p.axis);
  const int64_t unit = x.inner * static_cast<int64_t>(dtypeBytes(a.in[0].dtype));
  copyRuns(a.pool, a.out[0].as<char>() + p.start * unit, y.extent * unit, a.in[0].as<char>(), x.extent * unit,
           x.extent * unit, x.outer);
}

// ---- fill

template <class E>
void fillWith(Pool* pool, E* y, int64_t n, E value) {
  pool->parallelFor(tilesFor(n), [&](int64_t tile) {
    const int64_t end = n < (tile + 1) * kElementsPerTile ? n : (tile + 1) * kElementsPerTile;
    for (int64_t i = tile * kElementsPerTile; i < end; ++i) y[i] = value;
  });
}

void fillKernel(const KernelArgs& a) {
  const float value = a.paramsAs<FillParams>().value;
  const int64_t n = a.out[0].size();
  switch (a.out[0].dtype) {
    case DType::f32:
      return fillWith(a.pool, a.out[0].as<float>(), n, value);
    case DType::f64:
      return fillWith(a.pool, a.out[0].as<double>(), n, static_cast<double>(value));
    case DType::bf16:
      return fillWith(a.pool, a.out[0].as<uint16_t>(), n, toBf16(value));
    case DType::i32:
      return fillWith(a.pool, a.out[0].as<int32_t>(), n, static_cast<int32_t>(value));
    case DType::u8:
      return fillWith(a.pool, a.out[0].as<uint8_t>(), n, static_cast<uint8_t>(value));
  }
}

// ---- pad: `before` positions of the value, x, and the value to the end of the axis

template <class T>
void padKernel(const KernelArgs& a) {
  const auto& p = a.paramsAs<PadParams>();
  const AxisSplit x(a.in[0], p.axis), y(a.out[0], p.axis);
  const int64_t before = p.before * x.inner, middle = x.extent * x.inner, row = y.extent * x.inner;
  const T value = static_cast<T>(p.value);
  const int64_t rowsPerTile = row >= kElementsPerTile ? 1 : kElementsPerTile / row;
  a.pool->parallelFor(tilesFor(x.outer, rowsPerTile), [&](int64_t tile) {
    const int64_t last = x.outer < (tile + 1) * rowsPerTile ? x.outer : (tile + 1) * rowsPerTile;
    for (int64_t o = tile * rowsPerTile; o < last; ++o) {
      T* to = a.out[0].as<T>() + o * row;
      for (int64_t i = 0; i < before; ++i) to[i] = value;
      __builtin_memcpy(to + before, a.in[0].as<T>() + o * middle, static_cast<size_t>(middle) * sizeof(T));
      for (int64_t i = before + middle; i < row; ++i) to[i] = value;
    }
  });
}

// ---- permute: runs where the last axis stays last, otherwise a transposition in blocks

constexpr int64_t kBlock = 64;

template <class E>
void permuteAs(const KernelArgs& a) {
  const PermuteWalk w(a.in[0], a.paramsAs<PermuteParams>().axes);
  const E* x = a.in[0].as<E>();
  E* y = a.out[0].as<E>();
  const int last = w.rank - 1;
  int fast = 0;  // the output axis along which the input is contiguous
  while (w.stride[fast] != 1) ++fast;
  const int64_t P = w.extent[last], Q = fast == last ? 1 : w.extent[fast];
  // Every other axis is walked like an odometer, the blocks of the two being its fastest wheels.
  const int64_t blockP = fast == last ? P : kBlock, blockQ = kBlock;
  Odometer walk;
  walk.add(tilesFor(P, blockP), blockP * w.stride[last], blockP);
  int64_t outStride = P, outFast = 1;
  for (int axis = last - 1; axis >= 0; --axis) {
    if (axis == fast)
      outFast = outStride;
    else
      walk.add(w.extent[axis], w.stride[axis], outStride);
    outStride *= w.extent[axis];
  }
  if (fast != last) walk.add(tilesFor(Q, blockQ), blockQ, blockQ * outFast);
  const int64_t smallP = P < blockP ? P : blockP, smallQ = Q < blockQ ? Q : blockQ;
  const int64_t batch = smallP * smallQ >= kElementsPerTile ? 1 : kElementsPerTile / (smallP * smallQ);
  a.pool->parallelFor(tilesFor(walk.count, batch), [&](int64_t tile) {
    Odometer at = walk;
    at.seek(tile * batch);
    const int64_t pieces = walk.count - tile * batch < batch ? walk.count - tile * batch : batch;
    for (int64_t piece = 0; piece < pieces; ++piece, at.step()) {
      if (fast == last) {
        __builtin_memcpy(y + at.to, x + at.from, static_cast<size_t>(P) * sizeof(E));
        continue;
      }
      const int64_t p0 = at.index[0] * blockP, q0 = at.index[at.wheels - 1] * blockQ;
      transposeBlock(x + at.from, w.stride[last], y + at.to, outFast, P - p0 < blockP ? P - p0 : blockP,
                     Q - q0 < blockQ ? Q - q0 : blockQ);
    }
  });
}

void permuteKernel(const KernelArgs& a) {
  switch (dtypeBytes(a.in[0].dtype)) {
    case 1:
      return permuteAs<uint8_t>(a);
    case 2:
      return permuteAs<uint16_t>(a);
    case 4:
      return permuteAs<uint32_t>(a);
    default:
      return permuteAs<uint64_t>(a);
  }
}

// ---- cast

template <class From, class To, class F>
void convert(const KernelArgs& a, const F& f) {
  const From* x = a.in[0].as<From>();
  To* y = a.out[0].as<To>();
  const int64_t n = a.out[0].size();
  a.pool->parallelFor(tilesFor(n), [&](int64_t tile) {
    const int64_t end = n < (tile + 1) * kElementsPerTile ? n : (tile + 1) * kElementsPerTile;
    for (int64_t i = tile * kElementsPerTile; i < end; ++i) y[i] = f(x[i]);
  });
}

template <class To>
void castTo(const KernelArgs& a) {
  const auto plain = [](auto x) { return static_cast<To>(x); };
  switch (a.in[0].dtype) {
    case DType::f32:
      return convert<float, To>(a, plain);
    case DType::f64:
      return convert<double, To>(a, plain);
    case DType::bf16:
      return convert<uint16_t, To>(a, [](uint16_t x) { return static_cast<To>(fromBf16(x)); });
    case DType::i32:
      return convert<int32_t, To>(a, plain);
    case DType::u8:
      return convert<uint8_t, To>(a, plain);
  }
}

void castKernel(const KernelArgs& a) {
  if (a.out[0].dtype == DType::f32) return castTo<float>(a);
  if (a.out[0].dtype == DType::f64) return castTo<double>(a);
  if (a.in[0].dtype == DType::f64)
    return convert<double, uint16_t>(a, [](double x) { return toBf16(static_cast<float>(x)); });
  convert<float, uint16_t>(a, [](float x) { return toBf16(x); });
}

}  // namespace

INFINITY_KERNEL(slice, sliceKernel, sliceKernel, nullptr);
INFINITY_KERNEL(write_slice, writeSliceKernel, writeSliceKernel, nullptr);
INFINITY_KERNEL(fill, fillKernel, fillKernel, nullptr);
INFINITY_KERNEL(pad, padKernel<float>, padKernel<double>, nullptr);
INFINITY_KERNEL(permute, permuteKernel, permuteKernel, nullptr);
INFINITY_KERNEL(cast, castKernel, castKernel, nullptr);

}  // namespace infinity::INFINITY_ISA
