#include "ops/attention/cpu_backward.h"
#include "ops/attention/cpu_forward.h"
#include "ops/attention/cpu_prep.h"

namespace infinity::INFINITY_ISA {
namespace {

template <class T>
constexpr KernelFn attentionBackward = attentionBackwardKernel<T, false>;
template <class T>
constexpr KernelFn attentionBiasBackward = attentionBackwardKernel<T, true>;
template <class T>
constexpr KernelFn prepBackward = qkvPrepBackwardKernel<T, false>;
template <class T>
constexpr KernelFn prepGainBackward = qkvPrepBackwardKernel<T, true>;

}  // namespace

INFINITY_KERNEL(qkv_prep, qkvPrepKernel<float>, qkvPrepKernel<double>, qkvPrepPlan);
INFINITY_KERNEL(qkv_append, qkvAppendKernel<float>, qkvAppendKernel<double>, qkvPrepPlan);
INFINITY_KERNEL(qkv_prep_backward, prepBackward<float>, prepBackward<double>, qkvPrepBackwardPlan);
INFINITY_KERNEL(qkv_prep_gain_backward, prepGainBackward<float>, prepGainBackward<double>, qkvPrepBackwardPlan);
INFINITY_KERNEL(attention, attentionKernel<float>, attentionKernel<double>, attentionPlan);
INFINITY_KERNEL(attention_backward, attentionBackward<float>, attentionBackward<double>, attentionBackwardPlan);
INFINITY_KERNEL(attention_bias_backward, attentionBiasBackward<float>, attentionBiasBackward<double>,
                attentionBackwardPlan);

}  // namespace infinity::INFINITY_ISA
