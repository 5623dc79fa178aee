#include "cuda/route.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <iterator>

#include "cuda/tensor_map.h"

namespace infinity::cuda {
namespace {

constexpr ProductRoute kRoutes[] = {ProductRoute::fragments, ProductRoute::warpgroups, ProductRoute::cublaslt};

// Launches of a candidate that are timed, after one that is not.
constexpr int kTimedLaunches = 5;

// Whether a card has what a way needs, whatever the product. cuBLASLt is another matter: it is opened.
bool offered(ProductRoute route, const DeviceFacts& device) {
  return route != ProductRoute::warpgroups || (device.architecture == 90 && hasTensorMaps());
}

const char* typeName(DType t) { return t == DType::bf16 ? "bf16" : "f32"; }

}  // namespace

const char* routeName(ProductRoute route) {
  switch (route) {
    case ProductRoute::fragments:
      return "fragments";
    case ProductRoute::warpgroups:
      return "warpgroups";
    case ProductRoute::cublaslt:
      return "cublaslt";
  }
  return "";
}

std::string describe(const ProductCase& c) {
  char shape[160];
  std::snprintf(shape, sizeof shape, "%s %lldx%lldx%lld, %s x %s to %s", c.op, static_cast<long long>(c.rows),
                static_cast<long long>(c.columns), static_cast<long long>(c.sums), typeName(c.a), typeName(c.b),
                typeName(c.out));
  std::string text = shape;
  const auto add = [&](const char* name, Part part) {
    if (part != Part::none) text += std::string(", ") + name + (part == Part::bf16 ? " bf16" : " f32");
  };
  add("bias", c.bias);
  if (c.gelu) text += ", gelu";
  add("gate", c.gate);
  add("residual", c.residual);
  if (c.norm) text += ", norm";
  return c.aligned ? text : text + ", not aligned";
}

std::string describe(const AttentionCase& c) {
  char shape[160];
  std::snprintf(shape, sizeof shape, "attention %lldx%lld of up to %lld, %lld heads of %lld, %s",
                static_cast<long long>(c.batch), static_cast<long long>(c.queries), static_cast<long long>(c.keys),
                static_cast<long long>(c.heads), static_cast<long long>(c.width), typeName(c.type));
  std::string text = shape;
  if (c.eachOwn) text += ", each query its own";
  if (c.bias) text += ", bias";
  if (c.unitKeys) text += ", unit keys";
  if (!c.positive) text += ", scale not positive";
  return c.aligned ? text : text + ", not aligned";
}

namespace {

bool takes(ProductRoute route, const ProductCase& c) {
  if (route == ProductRoute::cublaslt && c.norm) return false;  // a pass to finish it would cost more than the norm
  return c.a == DType::bf16 && c.b == DType::bf16 && c.aligned && c.sums > 0;
}
bool takes(ProductRoute route, const AttentionCase& c) {
  constexpr int64_t kWidestHead = 256;
  return route == ProductRoute::warpgroups && c.type == DType::bf16 && c.aligned && !c.bias && c.positive &&
         c.width <= kWidestHead;
}

}  // namespace

bool serves(ProductRoute route, const RoutedCase& c, const DeviceFacts& device) {
  if (route == ProductRoute::fragments) return true;
  return offered(route, device) && std::visit([&](const auto& of) { return takes(route, of); }, c);
}

ProductRoute routeByRule(const RoutedCase&, const DeviceFacts&) { return ProductRoute::fragments; }

ProductRoutes::ProductRoutes(Card* card, const CardOptions& options, CallFailure* failure)
    : card_(card), fastest_(!options.deterministic), forced_(*options.products) {
  if (forced_) {
    const auto named = [&](ProductRoute route) { return !std::strcmp(options.products, routeName(route)); };
    const auto* found = std::find_if(std::begin(kRoutes), std::end(kRoutes), named);
    if (found == std::end(kRoutes)) {
      failure->code = "INVALID_ARGUMENT";
      std::snprintf(failure->message, sizeof failure->message,
                    "Expected fragments, warpgroups or cublaslt for products but received '%.100s'.", options.products);
      return;
    }
    wanted_ = *found;
    if (!offered(wanted_, *factsOf(card))) {
      failure->code = "DEVICE_UNAVAILABLE";
      std::snprintf(failure->message, sizeof failure->message, "Products cannot go the way '%s' on this machine.",
                    options.products);
      return;
    }
  }
  const bool wanted = forced_ && wanted_ == ProductRoute::cublaslt;
  if (!wanted && (forced_ || !fastest_)) return;
  // What nobody named may be missing.
  CallFailure missing;
  cublasLt_ = CublasLt::open(card, options.cublaslt, &missing);
  if (!cublasLt_ && (wanted || *options.cublaslt)) *failure = missing;
}

bool ProductRoutes::candidate(ProductRoute route, const RoutedCase& c) {
  if (!serves(route, c, *factsOf(card_))) return false;
  return route != ProductRoute::cublaslt || (cublasLt_ && cublasLt_->has(std::get<ProductCase>(c)));
}

bool ProductRoutes::mayTake(ProductRoute route, const RoutedCase& c) const {
  const DeviceFacts& device = *factsOf(card_);
  return serves(route, c, device) && (forced_ ? route == wanted_ : fastest_ || route == routeByRule(c, device));
}

size_t ProductRoutes::scratch(const ProductCase& c) const {
  return cublasLt_ && serves(ProductRoute::cublaslt, c, *factsOf(card_)) ? cublasLtScratch(c) : 0;
}

ProductRoute ProductRoutes::decide(const KernelArgs& a, const RoutedCase& c, const Trial& trial) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto known = decided_.find(c);
    if (known != decided_.end()) return known->second.route;
  }
  const ProductRoute rule = routeByRule(c, *factsOf(card_));
  Decision decision = {rule, "by rule"};
  if (forced_) {
    decision = {wanted_, "asked for"};
    if (!candidate(wanted_, c)) decision = {ProductRoute::fragments, std::string("not for ") + routeName(wanted_)};
  } else if (fastest_) {
    if (isRecording(card_)) return rule;
    decision = measure(a, c, trial);
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto [known, isNew] = decided_.emplace(c, std::move(decision));
  if (isNew) met_.push_back(&*known);
  return known->second.route;
}

// A candidate that cannot be launched is none: what it failed with is forgotten.
ProductRoutes::Decision ProductRoutes::measure(const KernelArgs& a, const RoutedCase& c, const Trial& trial) {
  Decision best = {routeByRule(c, *factsOf(card_)), ""};
  std::vector<ProductRoute> candidates;
  for (ProductRoute route : kRoutes)
    if (candidate(route, c)) candidates.push_back(route);
  if (candidates.size() == 1) return {candidates[0], "the only way"};
  double least = 0;
  for (ProductRoute route : candidates) {
    CallFailure failure;
    KernelArgs args = a;
    args.failure = &failure;
    const auto once = [&] { trial.put(trial.context, args, route); };
    const double ms = timeOf(
        card_, routeName(route), kTimedLaunches, [](const void* f) { (*static_cast<const decltype(once)*>(f))(); },
        &once);
    if (failure.code || ms < 0) continue;
    char told[64];
    std::snprintf(told, sizeof told, "%s%s %.4f ms", best.why.empty() ? "" : ", ", routeName(route), ms);
    if (best.why.empty() || ms < least) {
      best.route = route;
      least = ms;
    }
    best.why += told;
  }
  if (best.why.empty()) best.why = "by rule: nothing could be measured";
  return best;
}

std::string ProductRoutes::decisions() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::string text;
  for (const auto* met : met_)
    text += std::visit([](const auto& c) { return describe(c); }, met->first) + ": " + routeName(met->second.route) +
            " (" + met->second.why + ")\n";
  return text;
}

}  // namespace infinity::cuda
