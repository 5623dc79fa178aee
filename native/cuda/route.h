// Which way a matrix product or an attention goes: it is described, the way is decided once for each description, kept
// for the life of the card, and can be printed.
#pragma once
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "cuda/attention_case.h"
#include "cuda/card.h"
#include "cuda/cublaslt.h"
#include "cuda/product_case.h"

namespace infinity::cuda {

// fragments: our kernels for every card (gemm_bf16.cuh, gemm_f32.cuh). warpgroups: our kernels for compute capability
// 9.0. cublaslt: NVIDIA's library, where the machine has it; the order of its sums is not known. Of products alone.
enum class ProductRoute : uint8_t { fragments, warpgroups, cublaslt };
const char* routeName(ProductRoute route);

using RoutedCase = std::variant<ProductCase, AttentionCase>;

// Whether the kernels of this way take such a product or attention on such a card.
bool serves(ProductRoute route, const RoutedCase& c, const DeviceFacts& device);
// The way that is taken unless a device was asked for the fastest: a function of the description and the card alone, so
// that results are too.
ProductRoute routeByRule(const RoutedCase& c, const DeviceFacts& device);

class ProductRoutes {
 public:
  // Sets `failure` where the one way that was asked for is not to be had, or not the library that was named. cuBLASLt
  // is opened where it may be taken, and not otherwise.
  ProductRoutes(Card* card, const CardOptions& options, CallFailure* failure);

  // Puts a product on the stream: put(args, route) launches it whole, by that way, and may be called several times. A
  // description that is met for the first time on a device that takes the fastest is measured, unless the stream is
  // being recorded.
  template <class Put>
  void launch(const KernelArgs& a, const RoutedCase& c, const Put& put) {
    const Trial trial = {
        [](const void* p, const KernelArgs& args, ProductRoute route) { (*static_cast<const Put*>(p))(args, route); },
        &put};
    put(a, decide(a, c, trial));
  }

  // Whether this way could be decided for: what it needs must be there.
  bool mayTake(ProductRoute route, const RoutedCase& c) const;
  // Bytes that the ways which may be taken for such a product want at most.
  size_t scratch(const ProductCase& c) const;
  // Where a product is put on the stream by it.
  CublasLt* cublasLt() const { return cublasLt_.get(); }

  // One line for each description that was met, in that order. From any thread.
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
  ProductRoute decide(const KernelArgs& a, const RoutedCase& c, const Trial& trial);
  Decision measure(const KernelArgs& a, const RoutedCase& c, const Trial& trial);
  bool candidate(ProductRoute route, const RoutedCase& c);

  Card* card_;
  bool fastest_, forced_ = false;
  ProductRoute wanted_ = ProductRoute::fragments;  // where forced
  std::unique_ptr<CublasLt> cublasLt_;             // null: not opened, or not there
  mutable std::mutex mutex_;                       // of what follows: the queue's thread decides, others print
  std::map<RoutedCase, Decision> decided_;
  std::vector<const std::pair<const RoutedCase, Decision>*> met_;  // in their order
};

}  // namespace infinity::cuda
