#include "ops/reduce/cuda_columns.cuh"
#include "ops/reduce/cuda_rows.cuh"
#include "ops/reduce/reduce.h"

namespace infinity::cuda {
namespace {

// Short runs are dealt out like columns: whole warps on them would have nothing to do.
bool byRows(const ReduceShape& s) { return s.inner == 1 && s.n > 64; }

size_t sumAxesPlan(const KernelArgs& a) {
  const ReduceShape s(a.in[0], a.paramsAs<SumAxesParams>());
  return byRows(s) ? rowSumBytes(s.outer, s.n) : columnSumBytes(s.outer, s.n, s.inner);
}

template <class T, class To>
void sumAxes(const KernelArgs& a) {
  const auto& p = a.paramsAs<SumAxesParams>();
  const ReduceShape s(a.in[0], p);
  const T* x = a.in[0].as<T>();
  To* y = a.out[0].as<To>();
  const float divisor = p.mean ? static_cast<float>(s.n) : 1.0f;
  if (byRows(s))
    sumRows(a, "sum_axes", x, y, s.outer, s.n, divisor, AddTerm{});
  else
    sumColumns(a, x, y, s.outer, s.n, s.inner, divisor);
}

void launchSumAxes(const KernelArgs& a) {
  if (a.in[0].dtype == DType::f32) return sumAxes<float, float>(a);
  withElement(a.out[0].dtype, [&](auto to) { sumAxes<bf16, decltype(to)>(a); });
}

// bf16 may be summed into f32, as gradients of parameters are.
bool acceptSum(const TensorView* in, const TensorView* out) {
  return acceptOneFloat<1, 1>(in, out) || (in[0].dtype == DType::bf16 && out[0].dtype == DType::f32);
}

}  // namespace

INFINITY_CUDA_KERNEL(sum_axes, launchSumAxes, sumAxesPlan, acceptSum);

}  // namespace infinity::cuda
