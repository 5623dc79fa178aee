// NVIDIA's library of matrix products, opened at run time where the machine has it. Nothing of it is needed to build:
// cublaslt.cc declares the few functions and values that are used.
#pragma once
#include <map>
#include <memory>

#include "cuda/card.h"
#include "cuda/product_case.h"

namespace infinity::cuda {

// How it takes a described product. In one call where its epilogue has all the parts: a bias, then GELU, or a residual
// that the sums are added to, each in the type of the result. A gate, or a residual after GELU, it does not have: the
// sums then go to scratch memory in f32, and our own epilogue finishes them.
bool takesWhole(const ProductCase& c);
// An f32 bias is rounded where the result is bf16, whose bias it wants: the bf16 copy is made in scratch memory.
bool roundsBias(const ProductCase& c);
size_t cublasLtScratch(const ProductCase& c);

struct CublasLtOperands {
  const void *a, *b;
  const void *bias = nullptr, *residual = nullptr;  // where it takes the product whole
  void* out;                                        // f32 sums where it does not
  void* rowSums = nullptr;                          // of A, where the description asks for them
};

class CublasLt {
 public:
  // `path` may be empty: the newest that the system finds. Null, with `failure` set, where it cannot be opened.
  static std::unique_ptr<CublasLt> open(Card* card, const char* path, CallFailure* failure);
  ~CublasLt();

  // Whether it has an algorithm for such a product; looked for once for each description. Of the queue's thread alone,
  // as is `launch`.
  bool has(const ProductCase& c);
  // Puts a product on the stream that it has an algorithm for.
  void launch(const KernelArgs& a, const ProductCase& c, const CublasLtOperands& operands);

 private:
  struct Functions;
  struct Plan;
  CublasLt(Card* card, std::unique_ptr<Functions> functions, void* handle, void* workspace);
  std::unique_ptr<Plan> plan(const ProductCase& c) const;

  Card* card_;
  std::unique_ptr<Functions> lt_;
  void* handle_;
  void* workspace_;  // of all products: they run one after the other on one stream, recorded or not
  std::map<ProductCase, std::unique_ptr<Plan>> plans_;  // null: no algorithm
};

}  // namespace infinity::cuda
