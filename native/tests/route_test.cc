// The ways of matrix products: how they are described and decided, and what is measured when. The card below counts and
// times as it is told.
#include "tests/simt.cc"
// Above: what the headers below take from the CUDA language.
#include <atomic>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/cublaslt.cc"
#include "cuda/route.cc"
#include "tests/expect.h"

namespace infinity::cuda {

struct Card {
  DeviceFacts facts = {108, 80, 166912, 40u << 20};
  bool recording = false;
  double fragments = 1, cublaslt = 2;  // milliseconds; negative: fails
  int timed = 0;
};
const DeviceFacts* factsOf(const Card* card) { return &card->facts; }
bool isRecording(Card* card) { return card->recording; }
double timeOf(Card* card, const char* what, int, void (*put)(const void*), const void* context) {
  ++card->timed;
  put(context);
  return std::strcmp(what, "cublaslt") ? card->fragments : card->cublaslt;
}
void* allocate(Card*, size_t bytes) { return std::aligned_alloc(256, bytes); }
void release(Card*, void* block) { std::free(block); }

}  // namespace infinity::cuda

namespace {

using namespace infinity;
using namespace infinity::cuda;

const ProductCase kF32 = {"linear", 8, 16, 32, DType::f32, DType::f32, DType::f32, true};
const ProductCase kBf16 = {"linear", 8192, 6144, 2048, DType::bf16, DType::bf16, DType::bf16, true};

void descriptionsAreReadable() {
  ProductCase c = kBf16;
  EXPECT(describe(c) == "linear 8192x6144x2048, bf16 x bf16 to bf16");
  c.bias = Part::f32;
  c.gelu = true;
  EXPECT(describe(c) == "linear 8192x6144x2048, bf16 x bf16 to bf16, bias f32, gelu");
  c.gelu = c.aligned = false;
  c.gate = c.residual = Part::bf16;
  EXPECT(describe(c) == "linear 8192x6144x2048, bf16 x bf16 to bf16, bias f32, gate bf16, residual bf16, not aligned");
}

void rulesKnowDescriptionAndCardAlone() {
  const DeviceFacts h200 = {132, 90, 232448, 50u << 20}, a100 = {108, 80, 166912, 40u << 20};
  for (const ProductCase& c : {kF32, kBf16})
    for (const DeviceFacts& device : {h200, a100}) {
      EXPECT(serves(ProductRoute::fragments, c, device));
      EXPECT(routeByRule(c, device) != ProductRoute::cublaslt && serves(routeByRule(c, device), c, device));
    }
  ProductCase ragged = kBf16;
  ragged.aligned = false;
  for (ProductRoute route : {ProductRoute::warpgroups, ProductRoute::cublaslt})
    EXPECT(serves(route, kBf16, h200) && !serves(route, kF32, h200) && !serves(route, ragged, h200));
  EXPECT(serves(ProductRoute::cublaslt, kBf16, a100) && !serves(ProductRoute::warpgroups, kBf16, a100));
}

void attentionHasWaysToo() {
  const DeviceFacts h200 = {132, 90, 232448, 50u << 20}, a100 = {108, 80, 166912, 40u << 20};
  const AttentionCase given = {2, 4096, 16384, 16, 128, DType::bf16, true, false, false, true, true};
  EXPECT(describe(given) == "attention 2x4096 of up to 16384, 16 heads of 128, bf16, unit keys");
  EXPECT(serves(ProductRoute::warpgroups, given, h200) && !serves(ProductRoute::warpgroups, given, a100));
  EXPECT(!serves(ProductRoute::cublaslt, given, h200) && serves(ProductRoute::fragments, given, a100));
  for (const auto& change : std::vector<void (*)(AttentionCase&)>{
           [](AttentionCase& c) { c.type = DType::f32; }, [](AttentionCase& c) { c.aligned = false; },
           [](AttentionCase& c) { c.bias = true; }, [](AttentionCase& c) { c.positive = false; },
           [](AttentionCase& c) { c.width = 264; }}) {
    AttentionCase other = given;
    change(other);
    EXPECT(!serves(ProductRoute::warpgroups, other, h200) && describe(other) != describe(given));
    EXPECT(given < other || other < given);
  }

  // Room for pieces is taken where that way may be.
  Card hopper = {h200};
  CallFailure failure;
  const auto mayTake = [&](ProductRoute route, bool deterministic, const char* products) {
    CardOptions options;
    options.deterministic = deterministic;
    options.products = products;
    return ProductRoutes(&hopper, options, &failure).mayTake(route, given);
  };
  EXPECT(!mayTake(ProductRoute::warpgroups, true, "") && mayTake(ProductRoute::warpgroups, false, ""));
  EXPECT(mayTake(ProductRoute::warpgroups, true, "warpgroups") &&
         !mayTake(ProductRoute::fragments, true, "warpgroups"));
  EXPECT(!failure.code);
}

// The parts of an epilogue that cuBLASLt takes, and the scratch memory of what it leaves.
void epiloguesAreShared() {
  ProductCase c = kBf16;
  EXPECT(takesWhole(c) && cublasLtScratch(c) == 0);
  c.bias = Part::f32;
  EXPECT(takesWhole(c) && roundsBias(c) && cublasLtScratch(c) == 6144 * 2);
  c.bias = Part::bf16;
  c.gelu = true;
  EXPECT(takesWhole(c) && !roundsBias(c) && cublasLtScratch(c) == 0);
  c.residual = Part::bf16;  // after GELU
  EXPECT(!takesWhole(c) && cublasLtScratch(c) == size_t{8192} * 6144 * 4);
  c.gelu = false;
  EXPECT(takesWhole(c));
  c.residual = Part::f32;  // of another type than the result
  EXPECT(!takesWhole(c));
  c.residual = Part::bf16;
  c.gate = Part::bf16;
  EXPECT(!takesWhole(c));
}

struct Fixture {
  Card card;
  CallFailure failure;
  std::vector<ProductRoute> taken;
  ProductRoute take(ProductRoutes& routes, const RoutedCase& c) {
    KernelArgs args{};
    args.failure = &failure;
    taken.clear();
    routes.launch(args, c, [&](const KernelArgs&, ProductRoute route) { taken.push_back(route); });
    return taken.back();
  }
};

CardOptions fastestOf(const char* library) {
  CardOptions options;
  options.deterministic = false;
  options.cublaslt = library;
  return options;
}

void deterministicDevicesMeasureNothing() {
  Fixture f;
  CardOptions options;
  options.cublaslt = "/nowhere/libcublasLt.so";  // not looked at
  ProductRoutes routes(&f.card, options, &f.failure);
  EXPECT(!f.failure.code && !routes.cublasLt() && routes.scratch(kBf16) == 0);
  EXPECT(f.take(routes, kBf16) == routeByRule(kBf16, f.card.facts) && f.taken.size() == 1 && f.card.timed == 0);
  EXPECT(routes.decisions() == "linear 8192x6144x2048, bf16 x bf16 to bf16: fragments (by rule)\n");
}

void fastestIsMeasuredOnceAndKept(const char* library) {
  Fixture f;
  ProductRoutes routes(&f.card, fastestOf(library), &f.failure);
  EXPECT(!f.failure.code && routes.cublasLt());
  f.card.cublaslt = 0.5;
  EXPECT(f.take(routes, kBf16) == ProductRoute::cublaslt && f.card.timed == 2 && f.taken.size() == 3);
  f.card.cublaslt = 9;
  EXPECT(f.take(routes, kBf16) == ProductRoute::cublaslt && f.card.timed == 2 && f.taken.size() == 1);
  EXPECT(f.take(routes, kF32) == ProductRoute::fragments && f.card.timed == 2);  // the only one that serves
  ProductCase wider = kBf16;
  wider.rows *= 2;
  EXPECT(f.take(routes, wider) == ProductRoute::fragments && f.card.timed == 4);
  const std::string told = routes.decisions();
  EXPECT(told.find("f32: fragments (the only way)\n") != std::string::npos);
  EXPECT(told.find("bf16: cublaslt (fragments 1.0000 ms, cublaslt 0.5000 ms)\n") != std::string::npos);
  EXPECT(told.find("linear 16384x6144x2048, bf16 x bf16 to bf16: fragments") != std::string::npos);
}

void nothingIsMeasuredWhileRecording(const char* library) {
  Fixture f;
  ProductRoutes routes(&f.card, fastestOf(library), &f.failure);
  f.card.recording = true;
  f.card.cublaslt = 0.5;
  EXPECT(f.take(routes, kBf16) == routeByRule(kBf16, f.card.facts) && f.card.timed == 0 && f.taken.size() == 1);
  EXPECT(routes.decisions().empty());  // left to be measured later
  f.card.recording = false;
  EXPECT(f.take(routes, kBf16) == ProductRoute::cublaslt && f.card.timed == 2);
  f.card.recording = true;  // what is known is recorded
  EXPECT(f.take(routes, kBf16) == ProductRoute::cublaslt && f.card.timed == 2);
}

void whatFailsIsNoCandidate(const char* library) {
  Fixture f;
  ProductRoutes routes(&f.card, fastestOf(library), &f.failure);
  f.card.cublaslt = -1;
  EXPECT(f.take(routes, kBf16) == ProductRoute::fragments && !f.failure.code);
  f.card.fragments = -1;
  ProductCase wider = kBf16;
  wider.rows *= 2;
  EXPECT(f.take(routes, wider) == ProductRoute::fragments);
}

void oneWayIsForced(const char* library) {
  Fixture f;
  CardOptions options;
  options.cublaslt = library;
  options.products = "cublaslt";
  ProductRoutes routes(&f.card, options, &f.failure);
  EXPECT(!f.failure.code && f.take(routes, kBf16) == ProductRoute::cublaslt);
  EXPECT(f.take(routes, kF32) == ProductRoute::fragments && f.card.timed == 0);
  const AttentionCase attention = {1, 8, 8, 1, 64, DType::bf16, true, false, false, false, true};
  EXPECT(f.take(routes, attention) == ProductRoute::fragments);
  EXPECT(routes.decisions().find("attention 1x8 of up to 8, 1 heads of 64, bf16: fragments (not for cublaslt)") !=
         std::string::npos);
  options.products = "sideways";
  ProductRoutes unknown(&f.card, options, &f.failure);
  EXPECT(!std::strcmp(f.failure.code, "INVALID_ARGUMENT"));
}

void missingLibrariesAreNamed() {
  Fixture f;
  ProductRoutes routes(&f.card, fastestOf("/nowhere/libcublasLt.so"), &f.failure);
  EXPECT(!std::strcmp(f.failure.code, "DEVICE_UNAVAILABLE"));
  EXPECT(std::strstr(f.failure.message, "/nowhere/libcublasLt.so"));
}

}  // namespace

int main() {
  descriptionsAreReadable();
  rulesKnowDescriptionAndCardAlone();
  attentionHasWaysToo();
  epiloguesAreShared();
  deterministicDevicesMeasureNothing();
  for (const auto& test :
       {fastestIsMeasuredOnceAndKept, nothingIsMeasuredWhileRecording, whatFailsIsNoCandidate, oneWayIsForced})
    test(FAKE_CUBLASLT);
  missingLibrariesAreNamed();
}
