// How a matrix product is launched: the type of A decides the arithmetic, the route the kernel, the plan the tile.
#pragma once
#include <type_traits>

#include "cuda/gemm_bf16.cuh"
#include "cuda/gemm_f32.cuh"
#include "cuda/gemm_hopper.cuh"
#include "cuda/product.h"
#include "cuda/route.h"

namespace infinity::cuda {

template <class A>
using TilesFor = std::conditional_t<std::is_same<A, bf16>::value, TilesBf16, TilesF32>;

template <class LoaderA, class LoaderB, class Epilogue>
void launchProduct(const KernelArgs& args, const char* name, const ProductShape& shape, const ProductPlan& plan,
                   const LoaderA& a, const LoaderB& b, const Epilogue& epilogue) {
  if (shape.rows == 0 || shape.columns == 0) return;
  const ProductGrid grid = gridOf(shape, plan);
  LaunchShape launchShape = {
      dim3(static_cast<unsigned>(grid.rowTiles * grid.columnTiles), static_cast<unsigned>(shape.parts * plan.splits)),
      dim3(static_cast<unsigned>(plan.tile.threads))};
  using Type = typename LoaderA::Element;
  TilesFor<Type>::with(plan.index, [&](auto tile) {
    if constexpr (std::is_same<Type, bf16>::value) {
      launchShape.shared = plan.tile.sharedBytes;
      launch(args, name, productBf16<decltype(tile), LoaderA, LoaderB, Epilogue>, launchShape, a, b, epilogue, grid);
    } else {
      launch(args, name, productF32<decltype(tile), LoaderA, LoaderB, Epilogue>, launchShape, a, b, epilogue, grid);
    }
  });
}

// A product of matrices by our kernels for this route. Only products of bf16 are decided to be for warpgroups.
template <class LoaderA, class LoaderB, class Epilogue>
void launchProductBy(ProductRoute route, const KernelArgs& args, const char* name, const ProductShape& shape,
                     int splits, const LoaderA& a, const LoaderB& b, const Epilogue& epilogue) {
  using A = typename LoaderA::Element;
  if constexpr (std::is_same<A, bf16>::value && std::is_same<typename LoaderB::Element, bf16>::value) {
    if (route == ProductRoute::warpgroups)
      return launchWarpgroups(args, name, shape, planProduct<WarpgroupTilesFor<LoaderB>>(shape, *args.device, splits),
                              a, b, epilogue);
  }
  launchProduct(args, name, shape, planProduct<TilesFor<A>>(shape, *args.device, splits), a, b, epilogue);
}

}  // namespace infinity::cuda
