// Parameter updates. Constants come from JavaScript as doubles rounded once, 1 - β among them: formed here from a
// rounded β it would carry an error of up to 1e-4.
#pragma once
#include <cstdint>

namespace infinity {

// Operands of a list of n tensors: the gradient's factor [] or none, n gradients, each or none; n parameters, n first
// and n second moments and, where they are averaged, n moving averages.
struct AdamWParams {
  uint32_t tensors, averaged;
  float keep;  // 1 - lr · weight decay
  float beta1, oneMinusBeta1;
  float beta2, oneMinusBeta2;
  float stepSize;        // lr / (1 - β₁ᵗ)
  float rootCorrection;  // √(1 - β₂ᵗ)
  float eps;
  float averageDecay, oneMinusAverageDecay;
};

struct SumSquaresParams {
  uint32_t tensors;
};

struct ClipFactorParams {
  float maxNorm;
};

}  // namespace infinity
