#include "ops/shape/cuda_move.cuh"

namespace infinity::cuda {
namespace {

// ---- slices

// out = x[.., start : start + count, ..]; where count is 1 the output may lack the axis.
void launchSlice(const KernelArgs& a) {
  const auto& p = a.paramsAs<SliceParams>();
  const AxisSplit x(a.in[0], p.axis);
  const int64_t size = static_cast<int64_t>(dtypeBytes(a.in[0].dtype)), unit = x.inner * size;
  Moves m(a.out[0].as<char>(), a.in[0].as<char>() + p.start * unit);
  m.add(x.outer, p.count * unit, x.extent * unit);
  m.add(p.count * x.inner, size, size);
  copy(a, "slice", m, size);
}

// out[.., start : start + x.dims[axis], ..] = x, in place
void launchWriteSlice(const KernelArgs& a) {
  const auto& p = a.paramsAs<WriteSliceParams>();
  const AxisSplit x(a.in[0], p.axis), y(a.out[0], p.axis);
  const int64_t size = static_cast<int64_t>(dtypeBytes(a.in[0].dtype)), unit = x.inner * size;
  Moves m(a.out[0].as<char>() + p.start * unit, a.in[0].as<char>());
  m.add(x.outer, y.extent * unit, x.extent * unit);
  m.add(x.extent * x.inner, size, size);
  copy(a, "write_slice", m, size);
}

void launchPermute(const KernelArgs& a) {
  switch (dtypeBytes(a.in[0].dtype)) {
    case 1:
      return permuteAs<uint8_t>(a);
    case 2:
      return permuteAs<uint16_t>(a);
    default:
      return permuteAs<uint32_t>(a);
  }
}

// ---- numbers as any type stores them

template <class F>
void withStored(DType type, const F& f) {
  switch (type) {
    case DType::bf16:
      return f(bf16{});
    case DType::i32:
      return f(int32_t{});
    case DType::u8:
      return f(uint8_t{});
    default:
      return f(float{});
  }
}

template <class To>
struct Convert {
  template <class From>
  __device__ __forceinline__ static To from(From x) {
    return static_cast<To>(x);
  }
  __device__ __forceinline__ static To from(bf16 x) { return static_cast<To>(toFloat(x)); }
};
template <>
struct Convert<bf16> {
  template <class From>
  __device__ __forceinline__ static bf16 from(From x) {
    return fromFloat<bf16>(static_cast<float>(x));
  }
};

template <class To>
struct Cast {
  template <class From>
  __device__ __forceinline__ void operator()(const From (&x)[1], To (&y)[1]) const {
    y[0] = Convert<To>::from(x[0]);
  }
};

template <class From, class To>
void castAs(const KernelArgs& a) {
  map(a, "cast", pointersOf<const From, 1>(a.in), pointersOf<To, 1>(a.out), a.out[0].size(), Cast<To>{});
}

// Every type to f32, and f32 to bf16.
void launchCast(const KernelArgs& a) {
  if (a.out[0].dtype == DType::bf16) return castAs<float, bf16>(a);
  withStored(a.in[0].dtype, [&](auto element) { castAs<decltype(element), float>(a); });
}

bool acceptCast(const TensorView* in, const TensorView* out) {
  return out[0].dtype == DType::f32 || (out[0].dtype == DType::bf16 && in[0].dtype == DType::f32);
}

// y[o][i] for o < outer, i < row: `value` but for `middle` elements from `before` on, which come from x. Units are
// packs.
template <int N, class T, class I>
__global__ void __launch_bounds__(kMapThreads)
    padKernel(T* y, const T* x, Divisor<I> row, I before, I middle, I packs, float value) {
  Pack<T, N> outside;
#pragma unroll
  for (int e = 0; e < N; ++e) outside.v[e] = Convert<T>::from(value);
  for (I i = static_cast<I>(blockIdx.x) * kMapThreads + threadIdx.x; i < packs; i += gridDim.x * kMapThreads) {
    const I o = row.divide(i), at = i - o * row.value - before;
    const bool inside = at < middle;  // unsigned: what is before the middle is far above it
    storePack(y + static_cast<size_t>(i) * N,
              inside ? loadPack<N>(x + (static_cast<size_t>(o) * middle + at) * N) : outside);
  }
}

template <class T>
void padAs(const KernelArgs& a) {
  const auto& p = a.paramsAs<PadParams>();
  const T* x = a.in[0].as<T>();
  T* y = a.out[0].as<T>();
  const int64_t n = a.out[0].size(), inner = AxisSplit(a.in[0], p.axis).inner;
  const int64_t row = a.out[0].dims[p.axis] * inner, before = p.before * inner, middle = a.in[0].dims[p.axis] * inner;
  constexpr int wide = kPerPack<T>;
  const bool packed = row % wide == 0 && before % wide == 0 && middle % wide == 0 && aligned(y, 16) && aligned(x, 16);
  withIndex(n, [&](auto index) {
    using I = decltype(index);
    const auto run = [&](auto kernel, int per) {
      launch(a, "pad", kernel, overElements(a, n, per, kMapThreads), y, x, Divisor<I>(row / per),
             static_cast<I>(before / per), static_cast<I>(middle / per), static_cast<I>(n / per), p.value);
    };
    if (packed)
      run(padKernel<wide, T, I>, wide);
    else
      run(padKernel<1, T, I>, 1);
  });
}

// `before` positions of the value, x, and the value to the end of the axis.
void launchPad(const KernelArgs& a) {
  withStored(a.out[0].dtype, [&](auto element) { padAs<decltype(element)>(a); });
}

template <int N, class T>
__global__ void __launch_bounds__(kMapThreads) fillKernel(T* y, int64_t n, float value) {
  Pack<T, N> x;
#pragma unroll
  for (int e = 0; e < N; ++e) x.v[e] = Convert<T>::from(value);
  const int64_t packs = n / N, first = static_cast<int64_t>(blockIdx.x) * kMapThreads + threadIdx.x;
  for (int64_t i = first; i < packs; i += static_cast<int64_t>(gridDim.x) * kMapThreads) storePack(y + i * N, x);
  if (first < n - packs * N) y[packs * N + first] = x.v[0];
}

void launchFill(const KernelArgs& a) {
  const int64_t n = a.out[0].size();
  const float value = a.paramsAs<FillParams>().value;
  withStored(a.out[0].dtype, [&](auto e) {
    using T = decltype(e);
    T* y = a.out[0].as<T>();
    if (aligned(y, 16))
      launch(a, "fill", fillKernel<kPerPack<T>, T>, overElements(a, n, kPerPack<T>, kMapThreads), y, n, value);
    else
      launch(a, "fill", fillKernel<1, T>, overElements(a, n, 1, kMapThreads), y, n, value);
  });
}

bool acceptAny(const TensorView*, const TensorView*) { return true; }

}  // namespace

INFINITY_CUDA_KERNEL(slice, launchSlice, nullptr, acceptAny);
INFINITY_CUDA_KERNEL(write_slice, launchWriteSlice, nullptr, acceptAny);
INFINITY_CUDA_KERNEL(fill, launchFill, nullptr, acceptAny);
INFINITY_CUDA_KERNEL(pad, launchPad, nullptr, acceptAny);
INFINITY_CUDA_KERNEL(permute, launchPermute, nullptr, acceptAny);
INFINITY_CUDA_KERNEL(cast, launchCast, nullptr, acceptCast);

}  // namespace infinity::cuda
