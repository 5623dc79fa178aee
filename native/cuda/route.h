// Which way a matrix product goes: it is described, the way is decided once for each description, kept for the life of
// the card, and can be printed.
#pragma once
#include <map>
#include <mutex>
#include <string>

#include "cuda/card.h"

namespace infinity::cuda {

// fragments: our kernels for every card (gemm_bf16.cuh, gemm_f32.cuh). warpgroups: our kernels for compute capability
// 9.0. cublaslt: NVIDIA's library, where the machine has it; the order of its sums is not known.
enum class ProductRoute : uint8_t { fragments, warpgroups, cublaslt };
constexpr int kProductRoutes = 3;
const char* routeName(ProductRoute route);

// An operand of the epilogue.
enum class Part : uint8_t { none, f32, bf16 };
inline Part partOf(const TensorView& t) { return !t ? Part::none : t.dtype == DType::bf16 ? Part::bf16 : Part::f32; }

// What a decision may depend on: products of equal description go one way. out(m, n) = epilogue(Σₖ A(m, k)·B(n, k)).
struct ProductCase {
  const char* op;
  int64_t rows, columns, sums;
  DType a, b, out;
  bool aligned;  // operands and results start, and their rows go on, at multiples of 16 bytes
  Part bias = Part::none, residual = Part::none, gate = Part::none;
  bool gelu = false;
};
// Whether rows of so many elements are `aligned`, or left out.
inline bool rowsAligned(const TensorView& t, int64_t length) {
  constexpr size_t kBytes = 16;
  return !t || (reinterpret_cast<uintptr_t>(t.data) % kBytes == 0 && length * dtypeBytes(t.dtype) % kBytes == 0);
}
// Of a product without epilogue.
inline ProductCase productCase(const char* op, int64_t rows, int64_t columns, int64_t sums, const TensorView& a,
                               const TensorView& b, const TensorView& out) {
  const bool aligned = rowsAligned(a, a.cols()) && rowsAligned(b, b.cols()) && rowsAligned(out, out.cols());
  return {op, rows, columns, sums, a.dtype, b.dtype, out.dtype, aligned};
}
bool operator<(const ProductCase& x, const ProductCase& y);
std::string describe(const ProductCase& c);

// Whether the kernels of this way take such a product on such a card.
bool serves(ProductRoute route, const ProductCase& c, const DeviceFacts& device);
// The way that is taken unless a device was asked for the fastest: a function of the description and the card alone, so
// that results are too.
ProductRoute routeByRule(const ProductCase& c, const DeviceFacts& device);

class ProductRoutes {
 public:
  // Sets `failure` where the one way that was asked for is not to be had.
  ProductRoutes(Card* card, const CardOptions& options, CallFailure* failure);

  // Puts a product on the stream: put(args, route) launches it whole, by that way, and may be called several times. A
  // description that is met for the first time on a device that takes the fastest is measured, unless the stream is
  // being recorded.
  template <class Put>
  void launch(const KernelArgs& a, const ProductCase& c, const Put& put) {
    const Trial trial = {
        [](const void* p, const KernelArgs& args, ProductRoute route) { (*static_cast<const Put*>(p))(args, route); },
        &put};
    put(a, decide(a, c, trial));
  }

  // One line for each description that was met, in the order of descriptions. From any thread.
  std::string decisions() const;

 private:
  struct Trial {
    void (*put)(const void*, const KernelArgs&, ProductRoute);
    const void* context;
  };
  struct Decision {
    ProductRoute route;
    std::string why;
  };
  ProductRoute decide(const KernelArgs& a, const ProductCase& c, const Trial& trial);
  Decision measure(const KernelArgs& a, const ProductCase& c, const Trial& trial) const;
  bool candidate(ProductRoute route, const ProductCase& c) const;

  Card* card_;
  bool fastest_, forced_ = false;
  ProductRoute wanted_ = ProductRoute::fragments;  // where forced
  mutable std::mutex mutex_;                       // of what follows: the queue's thread decides, others print
  std::map<ProductCase, Decision> decided_;
};

}  // namespace infinity::cuda
