// Hopper's asynchronous instructions (sm_90a): each wrapped once; emulated once, in tests/simt_hopper.h.
//
// Barriers in shared memory complete a phase when their threads have arrived and their bytes have come; phases have
// parity 0, 1, 0, ... Boxes of a matrix are copied by one thread and come with their 16-byte chunks permuted inside
// rows of 128 bytes: chunk c of row r lies at c ^ (r % 8). Warpgroups, 128 threads, multiply what lies there.
#pragma once
#include "cuda/mma.cuh"
#include "cuda/tensor_map.h"

// The instructions exist in code for 9.0 with its own features alone, and in the emulation.
#if defined(INFINITY_SIMT) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define INFINITY_HOPPER 1
#endif

namespace infinity::cuda {

constexpr int kWarpgroup = 128;
constexpr int kSwizzleRepeat = 1024;  // eight rows; where a box must begin

// Bits of a matrix descriptor: where it starts, the distance of its chunks or rows, and how they are permuted.
enum class MatrixSwizzle : uint32_t { none = 0, bytes128 = 1 };
__device__ __forceinline__ uint64_t matrixDescriptor(uint32_t address, uint32_t leadingBytes, uint32_t strideBytes,
                                                     MatrixSwizzle swizzle) {
  const auto field = [](uint32_t bytes) { return static_cast<uint64_t>((bytes & 0x3ffff) >> 4); };
  return field(address) | field(leadingBytes) << 16 | field(strideBytes) << 32 |
         static_cast<uint64_t>(static_cast<uint32_t>(swizzle)) << 62;
}

// A place in a ring of stages. Its rounds have parity 0, 1, 0, ...
template <int Stages>
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == Stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

#if defined(INFINITY_SIMT)

inline uint32_t sharedAddress(const void* p) { return simt::sharedAddress(p); }

inline void initBarrier(uint64_t* barrier, uint32_t arrivals) { simt::initMbarrier(barrier, arrivals); }
inline void publishBarriers() {}
inline void arrive(uint64_t* barrier) { simt::arriveMbarrier(barrier, 0); }
inline void arriveExpecting(uint64_t* barrier, uint32_t bytes) { simt::arriveMbarrier(barrier, bytes); }
inline void waitBarrier(uint64_t* barrier, uint32_t parity) { simt::waitMbarrier(barrier, parity); }

inline void prefetchTensorMap(const TensorMap&) {}
inline void copyBox(void* to, const TensorMap& map, uint64_t* barrier, int inner, int outer) {
  simt::TensorMapFields fields;
  std::memcpy(&fields, &map, sizeof fields);
  simt::issueCopy(sharedAddress(to), fields, barrier, inner, 0, outer);
}
inline void copyHeadBox(void* to, const TensorMap& map, uint64_t* barrier, int inner, int head, int row) {
  simt::TensorMapFields fields;
  std::memcpy(&fields, &map, sizeof fields);
  simt::issueCopy(sharedAddress(to), fields, barrier, inner, head, row);
}
inline void publishToAsync() {}

template <int Registers>
inline void giveRegisters() {}
template <int Registers>
inline void takeRegisters() {}

inline void openProducts() { simt::executeTogether({simt::GroupCall::fence}); }
inline void commitProducts() { simt::executeTogether({simt::GroupCall::commit}); }
template <int Pending>
inline void waitProducts() {
  simt::GroupCall call = {simt::GroupCall::wait};
  call.pending = Pending;
  simt::executeTogether(call);
}
template <int N>
inline void holdSums(float (&)[N]) {}
template <int N>
inline void holdWords(uint32_t (&)[N][4]) {}
template <int Columns, bool AlongM, bool AlongN>
inline void multiply(float (&sums)[Columns / 2], uint64_t a, uint64_t b, bool accumulate) {
  simt::executeTogether({simt::GroupCall::multiply, Columns, 0, a, b, AlongM, AlongN, accumulate, sums});
}
template <int Columns>
inline void multiplyRegisters(float (&sums)[Columns / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  simt::executeTogether({simt::GroupCall::multiply, Columns, 0, 0, b, false, true, accumulate, sums, a});
}

#else

// ---- barriers

__device__ __forceinline__ void initBarrier(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(sharedAddress(barrier)), "r"(arrivals) : "memory");
}
// After initBarrier, before the block's barrier: the copy engine sees them too.
__device__ __forceinline__ void publishBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(sharedAddress(barrier)) : "memory");
}
// Arrives, and makes the phase wait for so many bytes of copies.
__device__ __forceinline__ void arriveExpecting(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(sharedAddress(barrier)), "r"(bytes)
               : "memory");
}
// Until the phase of this parity is complete. Of a new barrier, the phase before the first has parity 1 and is.
__device__ __forceinline__ void waitBarrier(uint64_t* barrier, uint32_t parity) {
  uint32_t complete;
  do {
    asm volatile(
        "{\n\t.reg .pred p;\n\t"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, p;\n\t}"
        : "=r"(complete)
        : "r"(sharedAddress(barrier)), "r"(parity)
        : "memory");
  } while (!complete);
}

// ---- copies

__device__ __forceinline__ void prefetchTensorMap(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
// The box whose first element is (outer, inner), to a multiple of 1024 bytes; its bytes are told to the barrier.
__device__ __forceinline__ void copyBox(void* to, const TensorMap& map, uint64_t* barrier, int inner, int outer) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
          "r"(sharedAddress(to)),
      "l"(&map), "r"(sharedAddress(barrier)), "r"(inner), "r"(outer)
      : "memory");
}
// Of rows whose heads lie side by side: a box of one head, from element `inner` of it and from `row` on.
__device__ __forceinline__ void copyHeadBox(void* to, const TensorMap& map, uint64_t* barrier, int inner, int head,
                                            int row) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(sharedAddress(to)),
      "l"(&map), "r"(sharedAddress(barrier)), "r"(inner), "r"(head), "r"(row)
      : "memory");
}
// After ordinary stores to shared memory, before the barrier that products which read them wait for.
__device__ __forceinline__ void publishToAsync() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- registers: what one warpgroup gives back others can have, when all its threads say so

template <int Registers>
__device__ __forceinline__ void giveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
__device__ __forceinline__ void takeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

// ---- products of a warpgroup: sums[64×N] (+)= A[64×16]·B[N×16]ᵀ. Warp w of the group has rows 16w to 16w + 15, and of
// every eight columns the fragment d of mma.cuh in four sums. AlongM, AlongN: neighbours in memory run along the rows
// of A or B, not along the sum.

// Before the first product that takes registers over.
__device__ __forceinline__ void openProducts() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commitProducts() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most Pending of the committed groups are under way.
template <int Pending>
__device__ __forceinline__ void waitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
// Keeps the compiler from reading sums before, or changing them after, this point.
template <int N>
__device__ __forceinline__ void holdSums(float (&sums)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

// The same for words of fragments that products read.
template <int N>
__device__ __forceinline__ void holdWords(uint32_t (&words)[N][4]) {
#pragma unroll
  for (int i = 0; i < N * 4; ++i) asm volatile("" : "+r"(words[i / 4][i % 4])::"memory");
}

// clang-format off
#define INFINITY_NAMES_0 "%0, %1, %2, %3"
#define INFINITY_NAMES_1 "%4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define INFINITY_NAMES_2 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define INFINITY_NAMES_3A "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define INFINITY_NAMES_3B "%48, %49, %50, %51, %52, %53, %54, %55"
#define INFINITY_NAMES_3 INFINITY_NAMES_3A ", " INFINITY_NAMES_3B ", %56, %57, %58, %59, %60, %61, %62, %63"
#define INFINITY_NAMES_4A "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
                          "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define INFINITY_NAMES_4B "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define INFINITY_NAMES_4 INFINITY_NAMES_4A ", " INFINITY_NAMES_4B \
                         ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define INFINITY_SUMS4(i) "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3])
#define INFINITY_SUMS8(i) INFINITY_SUMS4(i), INFINITY_SUMS4(i + 4)
#define INFINITY_SUMS16(i) INFINITY_SUMS4(i), INFINITY_SUMS4(i + 4), INFINITY_SUMS4(i + 8), INFINITY_SUMS4(i + 12)
#define INFINITY_SUMS32(i) INFINITY_SUMS16(i), INFINITY_SUMS16(i + 16)
#define INFINITY_SUMS64(i) INFINITY_SUMS32(i), INFINITY_SUMS32(i + 32)
#define INFINITY_SUMS128(i) INFINITY_SUMS64(i), INFINITY_SUMS64(i + 64)
// The operands after the sums are named by their numbers.
#define INFINITY_WGMMA(columns, names, a_, b_, accumulate_, alongM, alongN, registers)                              \
  asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, " accumulate_ ", 0;\n\t"                                       \
               "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32.bf16.bf16 {" names "}, " a_ ", " b_             \
               ", p, 1, 1, " alongM ", " alongN ";\n\t}"                                                            \
               : registers : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(AlongM ? 1 : 0), "n"(AlongN ? 1 : 0))

template <int Columns, bool AlongM, bool AlongN>
__device__ __forceinline__ void multiply(float (&sums)[Columns / 2], uint64_t a, uint64_t b, bool accumulate) {
  static_assert(Columns == 8 || Columns == 32 || Columns == 64 || Columns == 128 || Columns == 256, "written below");
  if constexpr (Columns == 8)
    INFINITY_WGMMA("8", INFINITY_NAMES_0, "%4", "%5", "%6", "%7", "%8", INFINITY_SUMS4(0));
  else if constexpr (Columns == 32)
    INFINITY_WGMMA("32", INFINITY_NAMES_0 ", " INFINITY_NAMES_1, "%16", "%17", "%18", "%19", "%20",
                   INFINITY_SUMS16(0));
  else if constexpr (Columns == 64)
    INFINITY_WGMMA("64", INFINITY_NAMES_0 ", " INFINITY_NAMES_1 ", " INFINITY_NAMES_2, "%32", "%33", "%34", "%35",
                   "%36", INFINITY_SUMS32(0));
  else if constexpr (Columns == 128)
    INFINITY_WGMMA("128", INFINITY_NAMES_0 ", " INFINITY_NAMES_1 ", " INFINITY_NAMES_2 ", " INFINITY_NAMES_3, "%64",
                   "%65", "%66", "%67", "%68", INFINITY_SUMS64(0));
  else
    INFINITY_WGMMA("256", INFINITY_NAMES_0 ", " INFINITY_NAMES_1 ", " INFINITY_NAMES_2 ", " INFINITY_NAMES_3
                   ", " INFINITY_NAMES_4, "%128", "%129", "%130", "%131", "%132", INFINITY_SUMS128(0));
}
// B lies along its rows.
#define INFINITY_WGMMA_REGISTERS(columns, names, a_, b_, accumulate_, ...)                                          \
  asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, " accumulate_ ", 0;\n\t"                                       \
               "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32.bf16.bf16 {" names "}, {" a_ "}, " b_           \
               ", p, 1, 1, 1;\n\t}"                                                                                 \
               : __VA_ARGS__ : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)))

// A is this warp's fragments, as mma.cuh has them.
template <int Columns>
__device__ __forceinline__ void multiplyRegisters(float (&sums)[Columns / 2], const uint32_t (&a)[4], uint64_t b,
                                                  bool accumulate) {
  static_assert(Columns == 64 || Columns == 96 || Columns == 112 || Columns == 128 || Columns == 224 || Columns == 256,
                "written below");
  if constexpr (Columns == 64)
    INFINITY_WGMMA_REGISTERS("64", INFINITY_NAMES_0 ", " INFINITY_NAMES_1 ", " INFINITY_NAMES_2,
                             "%32, %33, %34, %35", "%36", "%37", INFINITY_SUMS32(0));
  else if constexpr (Columns == 96)
    INFINITY_WGMMA_REGISTERS("96", INFINITY_NAMES_0 ", " INFINITY_NAMES_1 ", " INFINITY_NAMES_2 ", "
                             INFINITY_NAMES_3A, "%48, %49, %50, %51", "%52", "%53",
                             INFINITY_SUMS32(0), INFINITY_SUMS16(32));
  else if constexpr (Columns == 112)
    INFINITY_WGMMA_REGISTERS("112", INFINITY_NAMES_0 ", " INFINITY_NAMES_1 ", " INFINITY_NAMES_2 ", "
                             INFINITY_NAMES_3A ", " INFINITY_NAMES_3B, "%56, %57, %58, %59", "%60", "%61",
                             INFINITY_SUMS32(0), INFINITY_SUMS16(32), INFINITY_SUMS8(48));
  else if constexpr (Columns == 128)
    INFINITY_WGMMA_REGISTERS("128", INFINITY_NAMES_0 ", " INFINITY_NAMES_1 ", " INFINITY_NAMES_2 ", "
                             INFINITY_NAMES_3, "%64, %65, %66, %67", "%68", "%69", INFINITY_SUMS64(0));
  else if constexpr (Columns == 224)
    INFINITY_WGMMA_REGISTERS("224", INFINITY_NAMES_0 ", " INFINITY_NAMES_1 ", " INFINITY_NAMES_2 ", "
                             INFINITY_NAMES_3 ", " INFINITY_NAMES_4A ", " INFINITY_NAMES_4B,
                             "%112, %113, %114, %115", "%116", "%117", INFINITY_SUMS64(0), INFINITY_SUMS32(64),
                             INFINITY_SUMS16(96));
  else
    INFINITY_WGMMA_REGISTERS("256", INFINITY_NAMES_0 ", " INFINITY_NAMES_1 ", " INFINITY_NAMES_2 ", "
                             INFINITY_NAMES_3 ", " INFINITY_NAMES_4, "%128, %129, %130, %131", "%132", "%133",
                             INFINITY_SUMS128(0));
}
#undef INFINITY_NAMES_0
#undef INFINITY_NAMES_1
#undef INFINITY_NAMES_2
#undef INFINITY_NAMES_3
#undef INFINITY_NAMES_3A
#undef INFINITY_NAMES_3B
#undef INFINITY_NAMES_4A
#undef INFINITY_NAMES_4B
#undef INFINITY_NAMES_4
#undef INFINITY_SUMS4
#undef INFINITY_SUMS8
#undef INFINITY_SUMS16
#undef INFINITY_SUMS32
#undef INFINITY_SUMS64
#undef INFINITY_SUMS128
#undef INFINITY_WGMMA
#undef INFINITY_WGMMA_REGISTERS
// clang-format on

#endif

}  // namespace infinity::cuda
