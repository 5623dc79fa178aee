// What is expected of the plans of products.
#pragma once
#include <cstdio>

#include "cuda/product.h"

namespace {

constexpr infinity::cuda::DeviceFacts kH200 = {132, 90, 232448, 50u << 20};

// Whether an H200 gets tiles of this size; prints the plan where it does not.
template <class Tiles>
bool planned(const infinity::cuda::ProductShape& shape, int rows, int columns) {
  const infinity::cuda::ProductPlan plan = infinity::cuda::planProduct<Tiles>(shape, kH200);
  char text[200];
  describe(plan, text, sizeof text);
  const bool right = plan.tile.rows == rows && plan.tile.columns == columns;
  if (!right) std::fprintf(stderr, "%s\n", text);
  return right;
}

}  // namespace
