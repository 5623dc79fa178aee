// Hopper's asynchronous instructions on the host, as the PTX manual has them: barriers in shared memory that count
// arrivals and bytes, bulk copies of boxes of a tensor, products of a warpgroup that read shared memory through matrix
// descriptors. Layouts are decoded from addresses, so that a kernel's own arithmetic is not taken for granted.
//
// A product happens as late as it may: it reads shared memory when its group is waited for, and until then its sums are
// NaN. A copy is made in every other block as early as it may, when it is issued, and in the others as late as it may,
// when somebody waits for its barrier. So a wait that is missing, or a stage that is given back too early, shows.
// Included at the end of simt.h.
#pragma once
#include <deque>
#include <vector>

namespace simt {

// Dynamic shared memory promises 128 bytes of alignment, so it begins at no multiple of more.
constexpr uint32_t kSharedStart = 640;

inline uint32_t sharedAddress(const void* p) {
  const auto at = static_cast<const unsigned char*>(p) - static_cast<const unsigned char*>(dynamicShared());
  if (at < 0 || at >= static_cast<std::ptrdiff_t>(kMostShared)) stop("an address outside dynamic shared memory.");
  return kSharedStart + static_cast<uint32_t>(at);
}
inline unsigned char* sharedByte(uint32_t address) {
  if (address < kSharedStart || address - kSharedStart >= kMostShared)
    stop("an instruction reaches outside dynamic shared memory.");
  return static_cast<unsigned char*>(dynamicShared()) + (address - kSharedStart);
}
// Rows of 128, 64 or 32 bytes: the 16-byte chunks of a row are permuted by bits of the address above them.
inline uint32_t swizzled(uint32_t address, uint32_t bytes) {
  return address ^ ((address >> 7 & (bytes / 16 - 1)) << 4);
}

// ---- mbarriers: the 64-bit word in shared memory

struct Mbarrier {
  int64_t bytes : 22;  // of copies, still to come
  uint64_t pending : 20, expected : 20, parity : 1, unused : 1;
};
static_assert(sizeof(Mbarrier) == 8);

inline Mbarrier& mbarrier(uint64_t* word) {
  auto& b = *reinterpret_cast<Mbarrier*>(word);
  if (b.unused) stop("an mbarrier that was not initialised.");  // fresh shared memory is all ones
  return b;
}
inline void advancePhase(Mbarrier& b) {
  if (b.pending != 0 || b.bytes != 0) return;
  b.parity ^= 1;
  b.pending = b.expected;
}
inline void initMbarrier(uint64_t* word, uint32_t count) {
  *reinterpret_cast<Mbarrier*>(word) = {0, count & 0xfffff, count & 0xfffff, 0, 0};
}
inline void arriveMbarrier(uint64_t* word, uint32_t bytes) {
  Mbarrier& b = mbarrier(word);
  if (b.pending == 0) stop("more threads arrive at an mbarrier than it was initialised for.");
  b.bytes += bytes;
  b.pending -= 1;
  advancePhase(b);
}

// ---- bulk copies of tensors

struct TensorMapFields {
  const unsigned char* data;
  uint64_t extents[3], pitches[2];  // elements, bytes
  uint32_t boxInner, boxOuter;      // the box is one element thick in between
  uint32_t swizzleBytes;
};
constexpr uint32_t kElementBytes = 2;

struct BulkCopy {
  TensorMapFields map;
  uint32_t to;
  uint64_t* barrier;
  int inner, middle, outer;
  uint64_t block;
};
inline std::vector<BulkCopy> bulkCopies;

inline void makeCopy(const BulkCopy& c) {
  const TensorMapFields& m = c.map;
  for (uint32_t o = 0; o < m.boxOuter; ++o) {
    for (uint32_t i = 0; i < m.boxInner; ++i) {
      const int64_t inner = int64_t{c.inner} + i, outer = int64_t{c.outer} + o;
      const int64_t at[] = {inner, c.middle, outer};
      bool inside = true;
      for (int d = 0; d < 3; ++d) inside = inside && at[d] >= 0 && at[d] < static_cast<int64_t>(m.extents[d]);
      unsigned char* to = sharedByte(swizzled(c.to + (o * m.boxInner + i) * kElementBytes, m.swizzleBytes));
      if (inside)
        std::memcpy(to, m.data + at[2] * m.pitches[1] + at[1] * m.pitches[0] + inner * kElementBytes, kElementBytes);
      else
        std::memset(to, 0, kElementBytes);
    }
  }
  Mbarrier& b = mbarrier(c.barrier);
  b.bytes -= m.boxOuter * m.boxInner * kElementBytes;
  advancePhase(b);
}

inline void issueCopy(uint32_t to, const TensorMapFields& map, uint64_t* barrier, int inner, int middle, int outer) {
  if (to % 128) stop("a bulk copy to an address that is no multiple of 128 bytes.");
  for (const BulkCopy& c : bulkCopies)
    if (c.block != blockNumber()) stop("bulk copies of an earlier block that nobody waited for.");
  const BulkCopy copy = {map, to, barrier, inner, middle, outer, blockNumber()};
  if (blockNumber() % 2)
    makeCopy(copy);
  else
    bulkCopies.push_back(copy);
}

// Until the phase of this parity is complete.
inline void waitMbarrier(uint64_t* word, uint32_t parity) {
  struct Wait {
    uint64_t* word;
    uint32_t parity;
  } wait = {word, parity};
  waitUntil(
      "waits for an mbarrier whose phase nobody completes.",
      [](void* context) {
        const Wait& w = *static_cast<const Wait*>(context);
        for (size_t i = 0; i < bulkCopies.size();) {
          if (bulkCopies[i].barrier != w.word) {
            ++i;
            continue;
          }
          const BulkCopy now = bulkCopies[i];
          bulkCopies.erase(bulkCopies.begin() + static_cast<std::ptrdiff_t>(i));
          makeCopy(now);
        }
        return mbarrier(w.word).parity != w.parity;
      },
      &wait);
}

// ---- products of a warpgroup: D[64×N] = A[64×16]·B[N×16]ᵀ + D

constexpr unsigned kWarpgroup = 128, kGroupRows = 64, kGroupTerms = 16;

// What one thread gives to an instruction that its whole warpgroup executes.
struct GroupCall {
  enum Kind : uint32_t { fence, multiply, commit, wait } kind;
  uint32_t columns = 0, pending = 0;
  uint64_t a = 0, b = 0;
  bool alongM = false, alongN = false, accumulate = false;
  float* sums = nullptr;
  const uint32_t* words = nullptr;  // of A, where it is in registers

  bool same(const GroupCall& o) const {
    return kind == o.kind && columns == o.columns && pending == o.pending && a == o.a && b == o.b &&
           alongM == o.alongM && alongN == o.alongN && accumulate == o.accumulate && !words == !o.words;
  }
};
// A product on its way, and where its threads have A: registers are read when it happens.
struct IssuedProduct {
  GroupCall call;
  std::vector<const uint32_t*> words;
};

// The sums of an instruction under way: taken from the threads' registers, which hold NaN meanwhile.
struct HeldSums {
  float* registers[kWarpgroup];
  uint32_t columns, uses;
  std::vector<float> values;  // [64, columns]

  // Thread t's element e: warps have 16 rows each, in the layout of an m16n8 fragment every 8 columns.
  float& at(unsigned t, unsigned e) {
    const unsigned warp = t / 32, lane = t % 32;
    const unsigned row = warp * 16 + lane / 4 + (e / 2 % 2) * 8, column = e / 4 * 8 + lane % 4 * 2 + e % 2;
    return values[row * columns + column];
  }
};

struct Warpgroup {
  uint64_t block = 0;
  unsigned arrived = 0, turn = 0;
  bool fenced = false;
  GroupCall calls[kWarpgroup];
  std::vector<IssuedProduct> open;
  std::deque<std::vector<IssuedProduct>> groups;
  std::vector<HeldSums> held;
};
inline Warpgroup warpgroups[1024 / kWarpgroup];

// Element (m, k) of the matrix that a descriptor names; `alongM`: neighbours in memory run along m.
inline float matrixElement(uint64_t descriptor, bool alongM, uint32_t m, uint32_t k) {
  const auto field = [&](int bit) { return static_cast<uint32_t>(descriptor >> bit & 0x3fff) << 4; };
  const uint32_t start = field(0), leading = field(16), stride = field(32);
  constexpr uint32_t kWidths[] = {16, 128, 64, 32};
  const uint32_t width = kWidths[descriptor >> 62], chunk = width / kElementBytes;
  if (descriptor >> 49 & 7) stop("a matrix descriptor with a base offset, which the emulation does not know.");
  if (width > 16 && start % (8 * width) / 128)
    stop("a matrix descriptor whose address is not where the pattern of its chunks begins.");
  uint32_t at = start;
  if (width == 16)
    at += alongM ? m / 8 * stride + m % 8 * kElementBytes + k / 8 * leading + k % 8 * width
                 : m / 8 * stride + m % 8 * width + k / 8 * leading + k % 8 * kElementBytes;
  else
    at += alongM ? m / chunk * leading + m % chunk * kElementBytes + k / 8 * stride + k % 8 * width
                 : m / 8 * stride + m % 8 * width + k * kElementBytes;
  uint16_t bits;
  std::memcpy(&bits, sharedByte(swizzled(at, width)), sizeof bits);
  return simtBitCast<float>(static_cast<uint32_t>(bits) << 16);
}

inline HeldSums* heldSums(Warpgroup& g, const float* first) {
  for (HeldSums& h : g.held)
    if (h.registers[0] == first) return &h;
  return nullptr;
}

// Element (m, k) of the matrix whose words 128 threads hold: of each warp the fragment a of m16n8k16.
inline float registerElement(const std::vector<const uint32_t*>& words, uint32_t m, uint32_t k) {
  const uint32_t thread = m / 16 * 32 + m % 8 * 4 + k % 8 / 2, word = words[thread][k / 8 * 2 + m % 16 / 8];
  return simtBitCast<float>(k % 2 ? word & 0xffff0000u : word << 16);
}

inline void multiplyNow(Warpgroup& g, const IssuedProduct& issued) {
  const GroupCall& c = issued.call;
  HeldSums& h = *heldSums(g, c.sums);
  float a[kGroupRows][kGroupTerms], b[256][kGroupTerms];
  for (uint32_t k = 0; k < kGroupTerms; ++k) {
    for (uint32_t m = 0; m < kGroupRows; ++m)
      a[m][k] = c.words ? registerElement(issued.words, m, k) : matrixElement(c.a, c.alongM, m, k);
    for (uint32_t n = 0; n < c.columns; ++n) b[n][k] = matrixElement(c.b, c.alongN, n, k);
  }
  for (uint32_t m = 0; m < kGroupRows; ++m) {
    for (uint32_t n = 0; n < c.columns; ++n) {
      float& sum = h.values[m * c.columns + n];
      if (!c.accumulate) sum = 0;
      for (uint32_t k = 0; k < kGroupTerms; ++k) sum += a[m][k] * b[n][k];
    }
  }
  --h.uses;
}

inline void act(Warpgroup& g) {
  const GroupCall& call = g.calls[0];
  for (const GroupCall& other : g.calls)
    if (!call.same(other))
      stop("threads of a warpgroup execute different wgmma instructions, or with different operands.");
  switch (call.kind) {
    case GroupCall::fence:
      g.fenced = true;
      break;
    case GroupCall::multiply: {
      HeldSums* h = heldSums(g, call.sums);
      if (!h) {
        if (!g.fenced) stop("wgmma takes registers over without a wgmma.fence.");
        h = &g.held.emplace_back();
        h->columns = call.columns;
        h->uses = 0;
        h->values.resize(kGroupRows * call.columns);
        for (unsigned t = 0; t < kWarpgroup; ++t) {
          h->registers[t] = g.calls[t].sums;
          for (unsigned e = 0; e < call.columns / 2; ++e) {
            h->at(t, e) = h->registers[t][e];
            h->registers[t][e] = NAN;
          }
        }
      }
      ++h->uses;
      IssuedProduct& issued = g.open.emplace_back(IssuedProduct{call, {}});
      if (call.words) {
        if (!g.fenced) stop("wgmma takes registers over without a wgmma.fence.");
        for (const GroupCall& of : g.calls) issued.words.push_back(of.words);
      }
      break;
    }
    case GroupCall::commit:
      g.groups.push_back(std::move(g.open));
      g.open.clear();
      break;
    case GroupCall::wait:
      for (; g.groups.size() > call.pending; g.groups.pop_front())
        for (const IssuedProduct& p : g.groups.front()) multiplyNow(g, p);
      for (size_t i = 0; i < g.held.size();) {
        HeldSums& h = g.held[i];
        if (h.uses > 0) {
          ++i;
          continue;
        }
        for (unsigned t = 0; t < kWarpgroup; ++t)
          for (unsigned e = 0; e < h.columns / 2; ++e) h.registers[t][e] = h.at(t, e);
        g.held.erase(g.held.begin() + static_cast<std::ptrdiff_t>(i));
        g.fenced = false;
      }
      break;
  }
}

// All 128 threads of the warpgroup must come; the last one acts for all. On hardware only the warps' own threads wait
// for each other: a schedule that is allowed, and makes a warp that stays away show.
inline void executeTogether(const GroupCall& mine) {
  const unsigned thread = position().thread.x;
  if (position().blockSize.y * position().blockSize.z != 1) stop("warpgroups are counted along x.");
  Warpgroup& g = warpgroups[thread / kWarpgroup];
  // Meanwhile what was given back too early may be written.
  if (mine.kind == GroupCall::wait) letOthersRun();
  if (g.block != blockNumber()) {
    if (!g.held.empty()) stop("wgmma of an earlier block that nobody waited for.");
    g.block = blockNumber();
    g.fenced = false;
  }
  g.calls[thread % kWarpgroup] = mine;
  if (++g.arrived == kWarpgroup) {
    act(g);
    g.arrived = 0;
    ++g.turn;
    return;
  }
  struct Wait {
    const Warpgroup* group;
    unsigned turn;
  } wait = {&g, g.turn};
  waitUntil(
      "waits for threads of its warpgroup that never come to a wgmma instruction.",
      [](void* context) {
        const Wait& w = *static_cast<const Wait*>(context);
        return w.group->turn != w.turn;
      },
      &wait);
}

}  // namespace simt
