// The library's one symbol, and its table of kernels.
#include "cuda/library.h"

#include <cstdio>
#include <cstring>

#include "core/ops.h"
#include "cuda/card.h"
#include "cuda/route.h"

extern "C" const infinity::cuda::KernelEntry __start_inf_cuda_kernels[];
extern "C" const infinity::cuda::KernelEntry __stop_inf_cuda_kernels[];

namespace infinity::cuda {
namespace {

Card* open(const CardOptions& options, DeviceInfo* info, CallFailure* failure) {
  Card* card = openCard(options.ordinal, info, failure);
  if (!card) return nullptr;
  productRoutes(card) = std::make_unique<ProductRoutes>(card, options, failure);
  if (!failure->code) return card;
  closeCard(card);
  return nullptr;
}

const KernelEntry* find(const char* op) {
  for (const KernelEntry* e = __start_inf_cuda_kernels; e != __stop_inf_cuda_kernels; ++e)
    if (std::strcmp(e->op, op) == 0) return e;
  return nullptr;
}

bool accepts(const KernelEntry* entry, const Operands& o, uint32_t inputs, uint32_t outputs) {
  const auto some = [&](DType type) {
    for (uint32_t i = 0; i < inputs; ++i)
      if (o.in[i] && o.in[i].dtype == type) return true;
    for (uint32_t i = 0; i < outputs; ++i)
      if (o.out[i].dtype == type) return true;
    return false;
  };
  if (some(DType::f64)) return false;
  return entry->accept ? entry->accept(o.in, o.out) : !some(DType::bf16);
}

size_t plan(Card* card, const KernelEntry* entry, const Operands& o) {
  if (!entry->plan) return 0;
  return entry->plan({o.in, o.out, o.params, nullptr, streamOf(card), nullptr, factsOf(card), nullptr, nullptr,
                      productRoutes(card).get()});
}

void run(Card* card, const KernelEntry* entry, const Operands& o, void* scratch, uint32_t request,
         CallFailure* failure) {
  makeCurrent(card);
  entry->launch({o.in, o.out, o.params, scratch, streamOf(card), faultWord(card, request), factsOf(card), failure,
                 launchCount(card), productRoutes(card).get()});
}

uint64_t launches(Card* card) { return *launchCount(card); }

size_t decisions(Card* card, char* to, size_t room) {
  const std::string text = productRoutes(card)->decisions();
  if (room) std::snprintf(to, room, "%s", text.c_str());
  return text.size();
}

constexpr Library kLibrary = {
    kLibraryVersion,
    kOpsDigest,
    open,
    closeCard,
    allocate,
    release,
    freeMemory,
    find,
    accepts,
    plan,
    run,
    upload,
    fill,
    finish,
    wait,
    copyNow,
    launches,
    decisions,
    beginRecording,
    endRecording,
    replay,
    forget,
};

}  // namespace
}  // namespace infinity::cuda

extern "C" __attribute__((visibility("default"))) const infinity::cuda::Library* node_infinity_cuda() {
  return &infinity::cuda::kLibrary;
}
