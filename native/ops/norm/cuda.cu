#include "ops/norm/cuda_columns.cuh"
#include "ops/norm/cuda_group_backward.cuh"
#include "ops/norm/cuda_rows_backward.cuh"

namespace infinity::cuda {

INFINITY_CUDA_KERNEL(layer_norm, launchRowNorm<RowNorm::layer>, nullptr, acceptRowNorm<RowNorm::layer>);
INFINITY_CUDA_KERNEL(layer_norm_backward, launchRowNormBackward<RowNorm::layer>, planRowNormBackward,
                     acceptRowNormBackward<RowNorm::layer>);
INFINITY_CUDA_KERNEL(ada_norm, launchRowNorm<RowNorm::ada>, nullptr, acceptRowNorm<RowNorm::ada>);
INFINITY_CUDA_KERNEL(ada_norm_backward, launchRowNormBackward<RowNorm::ada>, planRowNormBackward,
                     acceptRowNormBackward<RowNorm::ada>);
INFINITY_CUDA_KERNEL(rms_norm, launchRowNorm<RowNorm::rms>, nullptr, acceptRowNorm<RowNorm::rms>);
INFINITY_CUDA_KERNEL(rms_norm_backward, launchRowNormBackward<RowNorm::rms>, planRowNormBackward,
                     acceptRowNormBackward<RowNorm::rms>);
INFINITY_CUDA_KERNEL(gated_add, launchGatedAdd, nullptr, acceptGatedAdd);
INFINITY_CUDA_KERNEL(gated_add_backward, launchGatedAddBackward, planGatedAddBackward, acceptGatedAddBackward);
INFINITY_CUDA_KERNEL(group_norm, launchGroupNorm, planGroupNorm, acceptGroupNorm);
INFINITY_CUDA_KERNEL(group_norm_backward, launchGroupNormBackward, planGroupNormBackward, acceptGroupNormBackward);
INFINITY_CUDA_KERNEL(group_norm_stats, launchGroupNormStats, planGroupNorm, acceptGroupNormStats);
INFINITY_CUDA_KERNEL(group_norm_apply, launchGroupNormApply, nullptr, acceptGroupNormApply);

}  // namespace infinity::cuda
