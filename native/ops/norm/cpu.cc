#include "ops/norm/cpu_group.h"
#include "ops/norm/cpu_rows.h"

namespace infinity::INFINITY_ISA {
namespace {

template <class T>
constexpr KernelFn layerNorm = rowNormKernel<T, RowNorm::layer>;
template <class T>
constexpr KernelFn layerNormBackward = rowNormBackwardKernel<T, RowNorm::layer>;
template <class T>
constexpr KernelFn adaNorm = rowNormKernel<T, RowNorm::ada>;
template <class T>
constexpr KernelFn adaNormBackward = rowNormBackwardKernel<T, RowNorm::ada>;
template <class T>
constexpr KernelFn rmsNorm = rowNormKernel<T, RowNorm::rms>;
template <class T>
constexpr KernelFn rmsNormBackward = rowNormBackwardKernel<T, RowNorm::rms>;

}  // namespace

INFINITY_KERNEL(layer_norm, layerNorm<float>, layerNorm<double>, nullptr);
INFINITY_KERNEL(layer_norm_backward, layerNormBackward<float>, layerNormBackward<double>, rowNormBackwardPlan);
INFINITY_KERNEL(ada_norm, adaNorm<float>, adaNorm<double>, nullptr);
INFINITY_KERNEL(ada_norm_backward, adaNormBackward<float>, adaNormBackward<double>, rowNormBackwardPlan);
INFINITY_KERNEL(rms_norm, rmsNorm<float>, rmsNorm<double>, nullptr);
INFINITY_KERNEL(rms_norm_backward, rmsNormBackward<float>, rmsNormBackward<double>, rowNormBackwardPlan);
INFINITY_KERNEL(gated_add, gatedAddKernel<float>, gatedAddKernel<double>, nullptr);
INFINITY_KERNEL(gated_add_backward, gatedAddBackwardKernel<float>, gatedAddBackwardKernel<double>,
                gatedAddBackwardPlan);
INFINITY_KERNEL(group_norm, groupNormKernel<float>, groupNormKernel<double>, groupNormPlan);
INFINITY_KERNEL(group_norm_backward, groupNormBackwardKernel<float>, groupNormBackwardKernel<double>,
                groupNormBackwardPlan);
INFINITY_KERNEL(group_norm_stats, groupNormStatsKernel<float>, groupNormStatsKernel<double>, groupNormStatsPlan);
INFINITY_KERNEL(group_norm_apply, groupNormApplyKernel<float>, groupNormApplyKernel<double>, groupNormApplyPlan);

}  // namespace infinity::INFINITY_ISA
