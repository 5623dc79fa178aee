#include "cuda/cublaslt.h"

#include <dlfcn.h>

#include <cstdio>
#include <string>
#include <type_traits>

namespace infinity::cuda {
namespace {

// The values of cublasLt.h that are used here, under names of our own.
constexpr int kSuccess = 0;
constexpr int kTypeF32 = 0, kTypeBf16 = 14;  // cudaDataType
constexpr int kComputeF32 = 68;              // sums in f32 of products of what is stored
constexpr int kPlain = 0, kTransposed = 1;   // cublasOperation_t
enum MatmulAttribute { kTransposeA = 3, kTransposeB = 4, kEpilogue = 7, kBiasPointer = 8 };
enum PreferenceAttribute { kWorkspaceBytes = 1, kAlignmentA = 5, kAlignmentB = 6, kAlignmentC = 7, kAlignmentD = 8 };
// cublasLtEpilogue_t; GELU in its tanh form. kSumsOfB: of op(B) over the sum, into the bias pointer.
enum Epilogue : uint32_t { kNothing = 1, kBias = 4, kGelu = 32, kBiasGelu = 36, kSumsOfB = 512 };

// As much as cuBLAS itself takes on compute capability 9.0.
constexpr uint64_t kWorkspace = 32u << 20;

int dataType(DType t) { return t == DType::bf16 ? kTypeBf16 : kTypeF32; }
Part partOf(DType t) { return t == DType::bf16 ? Part::bf16 : Part::f32; }

}  // namespace

bool takesWhole(const ProductCase& c) {
  const bool biasFits = c.bias != Part::bf16 || c.out == DType::bf16;
  const bool residualFits = c.residual == Part::none || (c.residual == partOf(c.out) && !c.gelu);
  return biasFits && residualFits && c.gate == Part::none;
}

bool roundsBias(const ProductCase& c) { return takesWhole(c) && c.bias == Part::f32 && c.out == DType::bf16; }

size_t cublasLtScratch(const ProductCase& c) {
  if (!takesWhole(c)) return static_cast<size_t>(c.rows) * c.columns * sizeof(float);
  return roundsBias(c) ? static_cast<size_t>(c.columns) * dtypeBytes(DType::bf16) : 0;
}

struct CublasLt::Functions {
  struct Algorithm {
    uint64_t data[8];
  };
  struct HeuristicResult {
    Algorithm algorithm;
    size_t workspaceBytes;
    int status;
    float waves;
    int reserved[4];
  };

  int (*create)(void** handle);
  int (*destroy)(void* handle);
  int (*matmulCreate)(void** matmul, int compute, int scaleType);
  int (*matmulDestroy)(void* matmul);
  int (*matmulSet)(void* matmul, int attribute, const void* value, size_t bytes);
  int (*layoutCreate)(void** layout, int type, uint64_t rows, uint64_t columns, int64_t leading);
  int (*layoutDestroy)(void* layout);
  int (*preferenceCreate)(void** preference);
  int (*preferenceDestroy)(void* preference);
  int (*preferenceSet)(void* preference, int attribute, const void* value, size_t bytes);
  int (*heuristic)(void* handle, void* matmul, void* a, void* b, void* c, void* d, void* preference, int wanted,
                   HeuristicResult* results, int* found);
  int (*matmul)(void* handle, void* matmul, const void* alpha, const void* a, void* layoutA, const void* b,
                void* layoutB, const void* beta, const void* c, void* layoutC, void* d, void* layoutD,
                const Algorithm* algorithm, void* workspace, size_t workspaceBytes, Stream stream);

  // False when one is missing.
  bool find(void* library) {
    const auto look = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      return function != nullptr;
    };
    return look(create, "cublasLtCreate") && look(destroy, "cublasLtDestroy") &&
           look(matmulCreate, "cublasLtMatmulDescCreate") && look(matmulDestroy, "cublasLtMatmulDescDestroy") &&
           look(matmulSet, "cublasLtMatmulDescSetAttribute") && look(layoutCreate, "cublasLtMatrixLayoutCreate") &&
           look(layoutDestroy, "cublasLtMatrixLayoutDestroy") &&
           look(preferenceCreate, "cublasLtMatmulPreferenceCreate") &&
           look(preferenceDestroy, "cublasLtMatmulPreferenceDestroy") &&
           look(preferenceSet, "cublasLtMatmulPreferenceSetAttribute") &&
           look(heuristic, "cublasLtMatmulAlgoGetHeuristic") && look(matmul, "cublasLtMatmul");
  }
};

// It knows column-major matrices alone, so it computes the transpose of the result, [columns, rows] to it: its A is our
// B, its B our A, and a bias runs along its rows.
struct CublasLt::Plan {
  const Functions& lt;
  void *matmul = nullptr, *a = nullptr, *b = nullptr, *out = nullptr;
  Functions::Algorithm algorithm = {};

  explicit Plan(const Functions& lt) : lt(lt) {}
  ~Plan() {
    for (void* layout : {a, b, out})
      if (layout) lt.layoutDestroy(layout);
    if (matmul) lt.matmulDestroy(matmul);
  }
  template <class T>
  bool set(MatmulAttribute attribute, T value) {
    return lt.matmulSet(matmul, attribute, &value, sizeof value) == kSuccess;
  }
  bool describe(const ProductCase& c) {
    const bool whole = takesWhole(c);
    const uint32_t epilogue = c.rowSums              ? kSumsOfB
                              : !whole               ? kNothing
                              : c.bias == Part::none ? (c.gelu ? kGelu : kNothing)
                                                     : (c.gelu ? kBiasGelu : kBias);
    const bool alongA = c.lieA == Lie::alongSum, alongB = c.lieB == Lie::alongSum;
    const auto layout = [&](void** to, int type, bool along, int64_t extent) {
      const int64_t rows = along ? c.sums : extent, columns = along ? extent : c.sums;
      return lt.layoutCreate(to, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), rows) == kSuccess;
    };
    // No bias is read while algorithms are looked for, but the address tells how it is aligned.
    const bool vector = epilogue != kNothing && epilogue != kGelu;
    return lt.matmulCreate(&matmul, kComputeF32, kTypeF32) == kSuccess &&
           set(kTransposeA, alongB ? kTransposed : kPlain) && set(kTransposeB, alongA ? kPlain : kTransposed) &&
           set(kEpilogue, epilogue) && (!vector || set(kBiasPointer, reinterpret_cast<const void*>(kAlignedBytes))) &&
           layout(&a, dataType(c.b), alongB, c.columns) && layout(&b, dataType(c.a), alongA, c.rows) &&
           lt.layoutCreate(&out, whole ? dataType(c.out) : kTypeF32, static_cast<uint64_t>(c.columns),
                           static_cast<uint64_t>(c.rows), c.columns) == kSuccess;
  }
};

CublasLt::CublasLt(Card* card, std::unique_ptr<Functions> functions, void* handle, void* workspace)
    : card_(card), lt_(std::move(functions)), handle_(handle), workspace_(workspace) {}

CublasLt::~CublasLt() {
  plans_.clear();
  lt_->destroy(handle_);
  release(card_, workspace_);
}

std::unique_ptr<CublasLt> CublasLt::open(Card* card, const char* path, CallFailure* failure) {
  const auto refuse = [&](const char* code, const std::string& why) {
    failure->code = code;
    std::snprintf(failure->message, sizeof failure->message, "cuBLASLt could not be opened: %s.", why.c_str());
    return nullptr;
  };
  // Newest first: one that the driver is too old for opens, but cannot be used.
  constexpr const char* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
  std::string why;
  for (const char* name : kNames) {
    if (*path) name = path;
    // Never closed, like the backend: what it started lives as long as the process.
    void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    auto functions = std::make_unique<Functions>();
    void* handle = nullptr;
    if (!library) {
      if (why.empty()) why = dlerror();
    } else if (!functions->find(library)) {
      why = std::string(name) + " lacks functions that are needed";
    } else if (functions->create(&handle) != kSuccess) {
      why = std::string(name) + " does not work with this driver";
    } else {
      void* workspace = allocate(card, kWorkspace);
      if (workspace) return std::unique_ptr<CublasLt>(new CublasLt(card, std::move(functions), handle, workspace));
      functions->destroy(handle);
      return refuse("OUT_OF_MEMORY", "the card has no " + std::to_string(kWorkspace) + " bytes left for it");
    }
    if (*path) break;
  }
  return refuse("DEVICE_UNAVAILABLE", why);
}

std::unique_ptr<CublasLt::Plan> CublasLt::plan(const ProductCase& c) const {
  auto plan = std::make_unique<Plan>(*lt_);
  if (!plan->describe(c)) return nullptr;
  void* preference = nullptr;
  if (lt_->preferenceCreate(&preference) != kSuccess) return nullptr;
  bool known = lt_->preferenceSet(preference, kWorkspaceBytes, &kWorkspace, sizeof kWorkspace) == kSuccess;
  constexpr uint32_t kAlignment = kAlignedBytes;
  for (PreferenceAttribute attribute : {kAlignmentA, kAlignmentB, kAlignmentC, kAlignmentD})
    known = known && lt_->preferenceSet(preference, attribute, &kAlignment, sizeof kAlignment) == kSuccess;
  Functions::HeuristicResult result = {};
  int found = 0;
  known = known &&
          lt_->heuristic(handle_, plan->matmul, plan->a, plan->b, plan->out, plan->out, preference, 1, &result,
                         &found) == kSuccess &&
          found > 0 && result.status == kSuccess;
  lt_->preferenceDestroy(preference);
  if (!known) return nullptr;
  plan->algorithm = result.algorithm;
  return plan;
}

bool CublasLt::has(const ProductCase& c) {
  auto known = plans_.find(c);
  if (known == plans_.end()) known = plans_.emplace(c, plan(c)).first;
  return known->second != nullptr;
}

void CublasLt::launch(const KernelArgs& a, const ProductCase& c, const CublasLtOperands& operands) {
  if (!has(c)) return;
  Plan& plan = *plans_.at(c);
  const void* vector = c.rowSums ? operands.rowSums : operands.bias;
  const float one = 1, onto = operands.residual ? 1 : 0;
  const void* added = operands.residual ? operands.residual : operands.out;  // not read where it counts nothing
  int status = !vector || plan.set(kBiasPointer, vector) ? kSuccess : -1;
  if (status == kSuccess)
    status = lt_->matmul(handle_, plan.matmul, &one, operands.b, plan.a, operands.a, plan.b, &onto, added, plan.out,
                         operands.out, plan.out, &plan.algorithm, workspace_, kWorkspace, a.stream);
  if (status == kSuccess || a.failure->code) return;
  a.failure->code = "DEVICE_UNAVAILABLE";
  std::snprintf(a.failure->message, sizeof a.failure->message, "cuBLASLt refused '%s' with status %d.",
                describe(c).c_str(), status);
}

}  // namespace infinity::cuda
