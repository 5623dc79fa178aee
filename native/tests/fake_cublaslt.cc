// In place of NVIDIA's cuBLASLt, for tests without a card: the part of its documented interface that the backend uses,
// in plain loops over the memory of the emulated card. It knows bf16 operands, column-major layouts, the epilogues
// below, and nothing else: what it does not know, or what is inconsistent, it refuses with a status. Like the original
// it reads op(A) [m, k], op(B) [k, n], C and D [m, n] and computes D = epilogue(alpha·op(A)·op(B) + beta·C). With
// FAKE_CUBLASLT_REFUSE set it finds no algorithm at all.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "tests/simt.h"

namespace {

using cublasStatus_t = int;
constexpr cublasStatus_t CUBLAS_STATUS_SUCCESS = 0, CUBLAS_STATUS_NOT_INITIALIZED = 1, CUBLAS_STATUS_INVALID_VALUE = 7,
                         CUBLAS_STATUS_NOT_SUPPORTED = 15;
constexpr int CUDA_R_32F = 0, CUDA_R_16BF = 14, CUBLAS_COMPUTE_32F = 68, CUBLAS_OP_N = 0, CUBLAS_OP_T = 1;
enum { MATMUL_DESC_TRANSA = 3, MATMUL_DESC_TRANSB = 4, MATMUL_DESC_EPILOGUE = 7, MATMUL_DESC_BIAS_POINTER = 8 };
enum { PREF_MAX_WORKSPACE_BYTES = 1, PREF_MIN_ALIGNMENT_A_BYTES = 5, PREF_MIN_ALIGNMENT_D_BYTES = 8 };
enum { EPILOGUE_DEFAULT = 1, EPILOGUE_BIAS = 4, EPILOGUE_GELU = 32, EPILOGUE_GELU_BIAS = 36, EPILOGUE_BGRADB = 512 };

// What an object is, so that no other is taken for it.
enum class Kind : uint32_t { handle = 0xb1a50001, matmul, layout, preference };
struct Object {
  Kind kind;
};
struct Handle : Object {
  bool refuses;
};
struct Matmul : Object {
  int transA = CUBLAS_OP_N, transB = CUBLAS_OP_N;
  uint32_t epilogue = EPILOGUE_DEFAULT;
  void* bias = nullptr;
};
struct Layout : Object {
  int type;
  uint64_t rows, columns;
  int64_t leading;
};
struct Preference : Object {
  uint64_t workspace = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};
};

template <class T>
T* as(void* object, Kind kind) {
  return object && static_cast<Object*>(object)->kind == kind ? static_cast<T*>(object) : nullptr;
}

// What an algorithm was found for: it is refused for anything else.
struct Algorithm {
  uint64_t data[8];
};
struct HeuristicResult {
  Algorithm algo;
  size_t workspaceSize;
  cublasStatus_t state;
  float wavesCount;
  int reserved[4];
};
static_assert(sizeof(HeuristicResult) == 96, "as in cublasLt.h");
constexpr size_t kWorkspace = 4096;

struct Problem {
  const Matmul* op;
  const Layout *a, *b, *c, *d;
  uint64_t m() const { return d->rows; }
  uint64_t n() const { return d->columns; }
  uint64_t k() const { return op->transA == CUBLAS_OP_N ? a->columns : a->rows; }

  cublasStatus_t check() const {
    if (!op || !a || !b || !c || !d) return CUBLAS_STATUS_INVALID_VALUE;
    const auto extents = [](const Layout& l, int trans, uint64_t rows, uint64_t columns) {
      return trans == CUBLAS_OP_N ? l.rows == rows && l.columns == columns : l.rows == columns && l.columns == rows;
    };
    if (!extents(*a, op->transA, m(), k()) || !extents(*b, op->transB, k(), n())) return CUBLAS_STATUS_INVALID_VALUE;
    if (c->rows != m() || c->columns != n() || c->type != d->type) return CUBLAS_STATUS_INVALID_VALUE;
    if (a->type != CUDA_R_16BF || b->type != CUDA_R_16BF) return CUBLAS_STATUS_NOT_SUPPORTED;
    const bool vector = op->epilogue & (EPILOGUE_BIAS | EPILOGUE_BGRADB);
    return vector && !op->bias ? CUBLAS_STATUS_INVALID_VALUE : CUBLAS_STATUS_SUCCESS;
  }
  Algorithm algorithm(const Preference& wants) const {
    return {{m(), n(), k(), static_cast<uint64_t>(op->transA << 1 | op->transB), op->epilogue,
             static_cast<uint64_t>(d->type), static_cast<uint64_t>(a->leading << 32 | b->leading),
             wants.alignment[0] | static_cast<uint64_t>(d->leading) << 32}};
  }
};

float load(const void* data, int type, uint64_t at) {
  if (type == CUDA_R_32F) return static_cast<const float*>(data)[at];
  const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(data)[at]) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
void store(void* data, int type, uint64_t at, float value) {
  if (type == CUDA_R_32F) {
    static_cast<float*>(data)[at] = value;
    return;
  }
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  static_cast<uint16_t*>(data)[at] = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
// op(X) at [row, column].
float element(const void* data, const Layout& l, int trans, uint64_t row, uint64_t column) {
  if (trans == CUBLAS_OP_T) std::swap(row, column);
  return load(data, l.type, row + column * static_cast<uint64_t>(l.leading));
}
float gelu(float x) { return 0.5f * x * (1 + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x))); }

bool aligned(const void* p, uint64_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

template <class T>
cublasStatus_t read(T& to, const void* from, size_t bytes) {
  if (!from || bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&to, from, bytes);
  return CUBLAS_STATUS_SUCCESS;
}
template <class T>
cublasStatus_t destroy(void* object, Kind kind) {
  T* found = as<T>(object, kind);
  if (!found) return CUBLAS_STATUS_INVALID_VALUE;
  found->kind = Kind{};
  delete found;
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default"))) cublasStatus_t

EXPORT cublasLtCreate(void** handle) {
  *handle = new Handle{{Kind::handle}, std::getenv("FAKE_CUBLASLT_REFUSE") != nullptr};
  return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasLtDestroy(void* handle) { return destroy<Handle>(handle, Kind::handle); }

EXPORT cublasLtMatmulDescCreate(void** matmul, int computeType, int scaleType) {
  if (computeType != CUBLAS_COMPUTE_32F || scaleType != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *matmul = new Matmul{{Kind::matmul}};
  return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasLtMatmulDescDestroy(void* matmul) { return destroy<Matmul>(matmul, Kind::matmul); }
EXPORT cublasLtMatmulDescSetAttribute(void* matmul, int attribute, const void* value, size_t bytes) {
  auto* op = as<Matmul>(matmul, Kind::matmul);
  if (!op) return CUBLAS_STATUS_INVALID_VALUE;
  switch (attribute) {
    case MATMUL_DESC_TRANSA:
      return read(op->transA, value, bytes);
    case MATMUL_DESC_TRANSB:
      return read(op->transB, value, bytes);
    case MATMUL_DESC_EPILOGUE:
      return read(op->epilogue, value, bytes);
    case MATMUL_DESC_BIAS_POINTER:
      return read(op->bias, value, bytes);
    default:
      return CUBLAS_STATUS_INVALID_VALUE;
  }
}

EXPORT cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t columns, int64_t leading) {
  if (type != CUDA_R_32F && type != CUDA_R_16BF) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (leading < static_cast<int64_t>(rows)) return CUBLAS_STATUS_INVALID_VALUE;
  *layout = new Layout{{Kind::layout}, type, rows, columns, leading};
  return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasLtMatrixLayoutDestroy(void* layout) { return destroy<Layout>(layout, Kind::layout); }

EXPORT cublasLtMatmulPreferenceCreate(void** preference) {
  *preference = new Preference{{Kind::preference}};
  return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasLtMatmulPreferenceDestroy(void* preference) { return destroy<Preference>(preference, Kind::preference); }
EXPORT cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value, size_t bytes) {
  auto* wants = as<Preference>(preference, Kind::preference);
  if (!wants) return CUBLAS_STATUS_INVALID_VALUE;
  if (attribute == PREF_MAX_WORKSPACE_BYTES) return read(wants->workspace, value, bytes);
  if (attribute < PREF_MIN_ALIGNMENT_A_BYTES || attribute > PREF_MIN_ALIGNMENT_D_BYTES)
    return CUBLAS_STATUS_INVALID_VALUE;
  return read(wants->alignment[attribute - PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
}

EXPORT cublasLtMatmulAlgoGetHeuristic(void* handle, void* matmul, void* a, void* b, void* c, void* d, void* preference,
                                      int wanted, HeuristicResult* results, int* found) {
  const Problem problem = {as<Matmul>(matmul, Kind::matmul), as<Layout>(a, Kind::layout), as<Layout>(b, Kind::layout),
                           as<Layout>(c, Kind::layout), as<Layout>(d, Kind::layout)};
  const auto* wants = as<Preference>(preference, Kind::preference);
  *found = 0;
  if (!as<Handle>(handle, Kind::handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (wanted < 1 || !wants) return CUBLAS_STATUS_INVALID_VALUE;
  if (const cublasStatus_t status = problem.check()) return status;
  const uint32_t* alignment = wants->alignment;
  for (int i = 1; i < 4; ++i)
    if (alignment[i] != alignment[0]) return CUBLAS_STATUS_NOT_SUPPORTED;
  switch (problem.op->epilogue) {
    case EPILOGUE_DEFAULT:
    case EPILOGUE_BIAS:
    case EPILOGUE_GELU:
    case EPILOGUE_GELU_BIAS:
    case EPILOGUE_BGRADB:
      break;
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (wants->workspace < kWorkspace || as<Handle>(handle, Kind::handle)->refuses) return CUBLAS_STATUS_NOT_SUPPORTED;
  results[0] = {problem.algorithm(*wants), kWorkspace, CUBLAS_STATUS_SUCCESS, 1.0f, {}};
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

namespace {

void multiply(const Problem& p, float by, float onto, const void* aData, const void* bData, const void* cData,
              void* dData) {
  const uint64_t m = p.m(), n = p.n(), k = p.k();
  const auto leading = static_cast<uint64_t>(p.d->leading), leadingC = static_cast<uint64_t>(p.c->leading);
  std::vector<float> rowOfA(k);
  for (uint64_t i = 0; i < m; ++i) {
    for (uint64_t l = 0; l < k; ++l) rowOfA[l] = element(aData, *p.a, p.op->transA, i, l);
    for (uint64_t j = 0; j < n; ++j) {
      float sum = 0;  // downwards: nobody may count on the order
      for (uint64_t l = k; l-- > 0;) sum += rowOfA[l] * element(bData, *p.b, p.op->transB, l, j);
      sum *= by;
      if (onto != 0) sum += onto * load(cData, p.c->type, i + j * leadingC);
      if (p.op->epilogue & EPILOGUE_BIAS) sum += load(p.op->bias, p.d->type, i);
      if (p.op->epilogue & EPILOGUE_GELU) sum = gelu(sum);
      store(dData, p.d->type, i + j * leading, sum);
    }
  }
  if (p.op->epilogue == EPILOGUE_BGRADB)
    for (uint64_t j = 0; j < n; ++j) {
      float sum = 0;
      for (uint64_t l = k; l-- > 0;) sum += element(bData, *p.b, p.op->transB, l, j);
      store(p.op->bias, p.d->type, j, sum);
    }
}

}  // namespace

EXPORT cublasLtMatmul(void* handle, void* matmul, const void* alpha, const void* aData, void* aLayout,
                      const void* bData, void* bLayout, const void* beta, const void* cData, void* cLayout, void* dData,
                      void* dLayout, const Algorithm* algorithm, void* workspace, size_t workspaceBytes,
                      simt::Stream* stream) {
  const Problem p = {as<Matmul>(matmul, Kind::matmul), as<Layout>(aLayout, Kind::layout),
                     as<Layout>(bLayout, Kind::layout), as<Layout>(cLayout, Kind::layout),
                     as<Layout>(dLayout, Kind::layout)};
  if (!as<Handle>(handle, Kind::handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (const cublasStatus_t status = p.check()) return status;
  if (!alpha || !beta || !aData || !bData || !cData || !dData || !algorithm) return CUBLAS_STATUS_INVALID_VALUE;
  Preference wants{{Kind::preference}};
  wants.alignment[0] = static_cast<uint32_t>(algorithm->data[7]);
  const Algorithm same = p.algorithm(wants);
  if (std::memcmp(&same, algorithm, sizeof same)) return CUBLAS_STATUS_INVALID_VALUE;
  for (const void* data : {aData, bData, cData, static_cast<const void*>(dData)})
    if (!aligned(data, wants.alignment[0])) return CUBLAS_STATUS_INVALID_VALUE;
  if (!workspace || workspaceBytes < kWorkspace || !aligned(workspace, 256)) return CUBLAS_STATUS_INVALID_VALUE;
  // What is recorded keeps the values that it was given: descriptors change from call to call.
  const auto work = [=, op = *p.op, a = *p.a, b = *p.b, c = *p.c, d = *p.d, by = *static_cast<const float*>(alpha),
                     onto = *static_cast<const float*>(beta)] {
    std::memset(workspace, 0xff, kWorkspace);
    multiply({&op, &a, &b, &c, &d}, by, onto, aData, bData, cData, dData);
  };
  if (stream && stream->recording)
    stream->recording->emplace_back(work);
  else
    work();
  return CUBLAS_STATUS_SUCCESS;
}
