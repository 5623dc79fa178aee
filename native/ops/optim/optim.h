// Updates of weights in training. AdamW: Loshchilov & Hutter, "Decoupled weight decay regularization", as
// torch.optim.AdamW.
#pragma once

namespace infinity {

struct AdamwParams {
  float lr, beta1, beta2, eps, weightDecay;
  float correction1, correction2;  // 1 - beta1^step, sqrt(1 - beta2^step)
};

struct EmaParams {
  float decay;
};

struct ClipFactorParams {
  float maxNorm;
};

// torch.nn.utils.clip_grad_norm_ divides by the norm plus this.
constexpr double kClipEps = 1e-6;

}  // namespace infinity
