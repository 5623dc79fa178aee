// y = x·Wᵀ + b with the official weight layout W [N, K], its gradients, and their definition in double precision.
#pragma once
#include "core/tensor.h"

namespace infinity {

// Operands of linear and linear_packed: x [.., K], weights, bias [N]?, residual [.., N]?, gate [G, N]?
// With a residual: residual + gate·(x·Wᵀ + b), each row of gate serving rows / G consecutive rows.
struct LinearParams {
  uint32_t gelu;
};
struct LinearPackedParams {
  uint32_t columns;  // N: the packed form is padded
  uint32_t gelu;
};

// fma_probe: x [tiles] → y [tiles]. Each tile is kProbeChains·iterations vector multiply-adds on registers: the peak
// that products are measured against.
struct FmaProbeParams {
  uint32_t iterations;
};

namespace {

struct LinearShape {
  int64_t rows, N, K, rowsPerGate;
  LinearShape(const TensorView* in, const TensorView& out)
      : rows(out.rows()), N(out.cols()), K(in[0].cols()), rowsPerGate(in[4] ? rows / (in[4].size() / N) : rows) {}
};

// gelu is passed in so that the reference needs no mathematics of its own.
template <class Gelu>
void linearReference(const TensorView* in, const TensorView& out, bool applyGelu, const Gelu& gelu) {
  const LinearShape s(in, out);
  for (int64_t r = 0; r < s.rows; ++r) {
    for (int64_t n = 0; n < s.N; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < s.K; ++k) sum += in[0].as<double>()[r * s.K + k] * in[1].as<double>()[n * s.K + k];
      if (in[2]) sum += in[2].as<double>()[n];
      if (applyGelu) sum = gelu(sum);
      if (in[4]) sum *= in[4].as<double>()[r / s.rowsPerGate * s.N + n];
      if (in[3]) sum += in[3].as<double>()[r * s.N + n];
      out.as<double>()[r * s.N + n] = sum;
    }
  }
}

// dx = dy·W
inline void linearBackwardInputReference(const TensorView& dy, const TensorView& w, const TensorView& dx) {
  const int64_t rows = dx.rows(), K = dx.cols(), N = dy.cols();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < K; ++k) {
      double sum = 0;
      for (int64_t n = 0; n < N; ++n) sum += dy.as<double>()[r * N + n] * w.as<double>()[n * K + k];
      dx.as<double>()[r * K + k] = sum;
    }
  }
}

// dW = dyᵀ·x, db = Σ dy
inline void linearBackwardWeightReference(const TensorView& dy, const TensorView& x, const TensorView& dw,
                                          const TensorView& db) {
  const int64_t rows = dy.rows(), N = dy.cols(), K = x.cols();
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t k = 0; k < K; ++k) {
      double sum = 0;
      for (int64_t r = 0; r < rows; ++r) sum += dy.as<double>()[r * N + n] * x.as<double>()[r * K + k];
      dw.as<double>()[n * K + k] = sum;
    }
    double sum = 0;
    for (int64_t r = 0; r < rows; ++r) sum += dy.as<double>()[r * N + n];
    db.as<double>()[n] = sum;
  }
}

}  // namespace
}  // namespace infinity
