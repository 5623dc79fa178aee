// Parameter updates. Constants come from JavaScript as doubles rounded once, 1 - β among them: formed here from a
// rounded β it would carry an error of up to 1e-4.
#pragma once
#include <cstdint>

namespace infinity {

struct AdamWParams {
  float keep;  // 1 - lr · weight decay
  float beta1, oneMinusBeta1;
  float beta2, oneMinusBeta2;
  float stepSize;        // lr / (1 - β₁ᵗ)
  float rootCorrection;  // √(1 - β₂ᵗ)
  float eps;
};

struct EmaParams {
  float decay, oneMinusDecay;
};

struct ClipFactorParams {
  float maxNorm;
};

}  // namespace infinity
