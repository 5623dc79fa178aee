// Matrix fragments of a warp and asynchronous copies to shared memory: each instruction wrapped once, emulated once.
//
// D[16×8] += A[16×16]·B[16×8], bf16 in, float out (m16n8k16). Lane l holds, with g = l / 4 and t = l % 4:
//   a[0] = A[g][2t, 2t+1]   a[1] = A[g+8][2t, 2t+1]   a[2] = A[g][2t+8, 2t+9]   a[3] = A[g+8][2t+8, 2t+9]
//   b[0] = B[2t, 2t+1][g]   b[1] = B[2t+8, 2t+9][g]
//   d[0], d[1] = D[g][2t, 2t+1]   d[2], d[3] = D[g+8][2t, 2t+1]
// The element with the lower index is in the lower half of a word.
#pragma once
#include "cuda/element.cuh"

namespace infinity::cuda {

#if defined(INFINITY_SIMT)

inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Words {
    uint32_t a[4], b[2];
  } mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const unsigned lane = simt::position().lane, g = lane / 4, t = lane % 4;
  const unsigned char* all = simt::exchange(0xffffffffu, &mine, sizeof mine);
  const auto half = [](uint32_t word, unsigned k) { return __uint_as_float(k & 1 ? word & 0xffff0000u : word << 16); };
  for (unsigned e = 0; e < 4; ++e) {
    const unsigned row = g, col = 2 * t + (e & 1), high = e / 2;
    for (unsigned k = 0; k < 16; ++k) {
      const Words left = simt::slot<Words>(all, row * 4 + k % 8 / 2),
                  right = simt::slot<Words>(all, col * 4 + k % 8 / 2);
      d[e] += half(left.a[(k / 8) * 2 + high], k) * half(right.b[k / 8], k);
    }
  }
}

// Four 8×8 matrices of 16-bit elements: lane l names row l % 8 of matrix l / 8, and gets elements [l / 4][2(l % 4), +1]
// of each; transposed, elements [2(l % 4), +1][l / 4].
inline void loadMatrices(uint32_t (&to)[4], const bf16* row, bool transposed) {
  const unsigned lane = simt::position().lane;
  const unsigned char* all = simt::exchange(0xffffffffu, &row, sizeof row);
  for (unsigned m = 0; m < 4; ++m) {
    const auto at = [&](unsigned r, unsigned c) { return simt::slot<const bf16*>(all, m * 8 + r)[c].bits; };
    const unsigned g = lane / 4, t = 2 * (lane % 4);
    const uint32_t low = transposed ? at(t, g) : at(g, t), high = transposed ? at(t + 1, g) : at(g, t + 1);
    to[m] = low | high << 16;
  }
  // On hardware the data are read at once: nobody may overwrite them before every lane has its own.
  simt::exchange(0xffffffffu, nullptr, 0);
}
inline void loadMatrix4(uint32_t (&to)[4], const bf16* row) { loadMatrices(to, row, false); }
inline void loadMatrix4Transposed(uint32_t (&to)[4], const bf16* row) { loadMatrices(to, row, true); }

inline void copyAsync16(void* shared, const void* global, bool valid) {
  if (valid)
    std::memcpy(shared, global, 16);
  else
    std::memset(shared, 0, 16);
}
inline void commitCopies() {}
template <int Pending>
inline void waitCopies() {}

#else

__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ uint32_t sharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Four 8×8 matrices of 16-bit elements: lane l names row l % 8 of matrix l / 8, and gets elements [l / 4][2(l % 4), +1]
// of each; transposed, elements [2(l % 4), +1][l / 4]. Rows are 16-byte aligned.
__device__ __forceinline__ void loadMatrix4(uint32_t (&to)[4], const bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(sharedAddress(row)));
}
__device__ __forceinline__ void loadMatrix4Transposed(uint32_t (&to)[4], const bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(sharedAddress(row)));
}

// 16 bytes from global to shared memory, zeros where not `valid`. Both addresses are 16-byte aligned.
__device__ __forceinline__ void copyAsync16(void* shared, const void* global, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(sharedAddress(shared)), "l"(global), "r"(bytes));
}
__device__ __forceinline__ void commitCopies() { asm volatile("cp.async.commit_group;"); }
// Waits until at most Pending of this thread's committed groups are under way; a barrier must follow for other threads'
// data.
template <int Pending>
__device__ __forceinline__ void waitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending));
}

#endif

// Two floats as the words of a fragment.
__device__ __forceinline__ uint32_t packBf16(float low, float high) {
#if defined(INFINITY_SIMT)
  return fromFloat<bf16>(low).bits | static_cast<uint32_t>(fromFloat<bf16>(high).bits) << 16;
#else
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
#endif
}
__device__ __forceinline__ float lowerBf16(uint32_t word) { return __uint_as_float(word << 16); }
__device__ __forceinline__ float upperBf16(uint32_t word) { return __uint_as_float(word & 0xffff0000u); }

}  // namespace infinity::cuda
