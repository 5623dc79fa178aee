#include "cuda/route.h"

#include <cstdio>
#include <cstring>
#include <string_view>
#include <tuple>

#include "cuda/tensor_map.h"

namespace infinity::cuda {
namespace {

constexpr ProductRoute kRoutes[] = {ProductRoute::fragments, ProductRoute::warpgroups, ProductRoute::cublaslt};

// Launches of a candidate that are timed, after one that is not.
constexpr int kTimedLaunches = 5;

auto tied(const ProductCase& c) {
  return std::make_tuple(std::string_view(c.op), c.rows, c.columns, c.sums, c.a, c.b, c.out, c.aligned, c.bias,
                         c.residual, c.gate, c.gelu);
}

// Whether a card has what a way needs, whatever the product.
bool offered(ProductRoute route, const DeviceFacts& device) {
  switch (route) {
    case ProductRoute::fragments:
      return true;
    case ProductRoute::warpgroups:
      return device.architecture == 90 && hasTensorMaps();
    case ProductRoute::cublaslt:
      return false;
  }
  return false;
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

bool operator<(const ProductCase& x, const ProductCase& y) { return tied(x) < tied(y); }

// "linear 8192x6144x2048, bf16 x bf16 to bf16, bias f32, gelu"
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
  return c.aligned ? text : text + ", not aligned";
}

bool serves(ProductRoute route, const ProductCase& c, const DeviceFacts& device) {
  if (route == ProductRoute::fragments) return true;
  return offered(route, device) && c.a == DType::bf16 && c.b == DType::bf16 && c.aligned && c.sums > 0;
}

ProductRoute routeByRule(const ProductCase&, const DeviceFacts&) { return ProductRoute::fragments; }

ProductRoutes::ProductRoutes(Card* card, const CardOptions& options, CallFailure* failure)
    : card_(card), fastest_(!options.deterministic) {
  if (!*options.products) return;
  forced_ = true;
  for (ProductRoute route : kRoutes) {
    if (std::strcmp(options.products, routeName(route))) continue;
    wanted_ = route;
    if (offered(route, *factsOf(card))) return;
    failure->code = "DEVICE_UNAVAILABLE";
    std::snprintf(failure->message, sizeof failure->message, "Products cannot go the way '%s' on this machine.",
                  options.products);
    return;
  }
  failure->code = "INVALID_ARGUMENT";
  std::snprintf(failure->message, sizeof failure->message,
                "Expected fragments, warpgroups or cublaslt for products but received '%.100s'.", options.products);
}

bool ProductRoutes::candidate(ProductRoute route, const ProductCase& c) const {
  return serves(route, c, *factsOf(card_));
}

ProductRoute ProductRoutes::decide(const KernelArgs& a, const ProductCase& c, const Trial& trial) {
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
  return decided_.emplace(c, std::move(decision)).first->second.route;
}

// A candidate that cannot be launched is none: what it failed with is forgotten.
ProductRoutes::Decision ProductRoutes::measure(const KernelArgs& a, const ProductCase& c, const Trial& trial) const {
  Decision best = {routeByRule(c, *factsOf(card_)), ""};
  double least = 0;
  for (ProductRoute route : kRoutes) {
    if (!candidate(route, c)) continue;
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
  for (const auto& [c, decision] : decided_)
    text += describe(c) + ": " + routeName(decision.route) + " (" + decision.why + ")\n";
  return text;
}

}  // namespace infinity::cuda
