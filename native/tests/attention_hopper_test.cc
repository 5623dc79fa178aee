// Attention by Hopper's warpgroups under the emulation of its instructions: against double loops, at twice the error of
// the plain computation in bf16, and bit for bit where other blocks, pieces, batches and places must change nothing.
#include "tests/simt.cc"
// Above: what the headers below take from the CUDA language.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "ops/attention/cuda_hopper_launch.cuh"
#include "tests/expect.h"

namespace {

using namespace infinity;
using namespace infinity::cuda;

// bf16 at a multiple of 16 bytes, as tensors of a card are.
struct Rows {
  std::vector<Pack<bf16, 8>> memory;
  bf16* data;
  explicit Rows(int64_t n)
      : memory(static_cast<size_t>(n + 7) / 8), data(memory.empty() ? nullptr : memory.data()->v) {}
  Rows(const Rows& other) : memory(other.memory), data(memory.data()->v) {}
};
constexpr bf16 kNaN = {0x7fc1};

using Range = std::pair<int, int>;
// drawn: of one length, where there is a gain. dominated: each query lies near a key. concentrated: it is one channel.
// opposed: all scores are far below zero.
enum class Queries { drawn, dominated, concentrated, opposed };
struct Case {
  int batch, queries, keys, heads, width;
  int sampleStride = -1;  // -1: samples lie one behind the other; 0: one set of keys
  std::function<Range(int b, int q)> range = {};
  float scale = 0.5f;
  float gain = 0;  // not 0: keys of length 1, queries of this length
  int pieceKeys = kPieceKeys;
  bool shared = false;  // pieces are shared out
  uint32_t processors = 2;
  Queries kind = Queries::drawn;

  int channels() const { return heads * width; }
  int stride() const { return sampleStride < 0 ? keys : sampleStride; }
  int keyRows() const { return keys + (batch - 1) * stride(); }
  Range of(int b, int q) const { return range ? range(b, q) : Range{0, keys}; }
};

struct Operands {
  Rows q, k, v;
};
uint32_t state = 1;
float draw() {
  state = state * 1664525 + 1013904223;
  return static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
}
void fill(Rows& rows, int64_t count, int width, float length) {
  for (int64_t i = 0; i < count; i += width) {
    std::vector<float> head(width);
    double squares = 0;
    for (float& x : head) {
      x = draw() * 2;
      squares += double{x} * x;
    }
    for (int d = 0; d < width; ++d)
      rows.data[i + d] = fromFloat<bf16>(length ? static_cast<float>(head[d] / std::sqrt(squares) * length) : head[d]);
  }
}
Operands operandsOf(const Case& c) {
  const int64_t q = int64_t{c.batch} * c.queries * c.channels(), k = int64_t{c.keyRows()} * c.channels();
  Operands o = {Rows(q), Rows(k), Rows(k)};
  fill(o.q, q, c.width, c.gain);
  fill(o.k, k, c.width, c.gain ? 1.0f : 0.0f);
  fill(o.v, k, c.width, 0);
  std::vector<float> like(static_cast<size_t>(q));
  for (int64_t at = 0; at < q; ++at) like[at] = toFloat(o.q.data[at]);
  for (int64_t at = 0; at < q; ++at) {
    const int64_t row = at / c.channels() % c.queries, key = row * 7 % c.keys * c.channels() + at % c.channels();
    float& to = like[at];
    if (c.kind == Queries::dominated) to = c.gain * (toFloat(o.k.data[key]) + 0.02f * draw()) * 0.98f;
    if (c.kind == Queries::concentrated) to = row % c.width == at % c.width ? c.gain : 0;
    if (c.kind == Queries::opposed) to = -50;
    o.q.data[at] = fromFloat<bf16>(to);
  }
  for (int64_t at = 0; c.kind == Queries::opposed && at < k; ++at)
    o.k.data[at] = fromFloat<bf16>(0.5f + 0.02f * draw());
  return o;
}

struct Result {
  std::vector<uint16_t> o;
  std::vector<float> lse;
  bool fault = false;
  bool operator==(const Result& r) const {
    return o == r.o && !std::memcmp(lse.data(), r.lse.data(), lse.size() * sizeof(float));
  }
  // Of sample b.
  Result sample(int b, int batch) const {
    const auto part = [&](const auto& all) {
      const auto n = static_cast<std::ptrdiff_t>(all.size()) / batch;
      return std::decay_t<decltype(all)>(all.begin() + b * n, all.begin() + (b + 1) * n);
    };
    return {part(o), part(lse)};
  }
};

Result attend(const Case& c, const Operands& x) {
  DeviceFacts card = {c.processors, 90, 232448, 4096};
  TensorView q, k;
  q.rank = k.rank = 3;
  q.dims[0] = static_cast<uint32_t>(c.batch), q.dims[1] = static_cast<uint32_t>(c.queries);
  k.dims[0] = 1, k.dims[1] = static_cast<uint32_t>(c.keyRows());
  q.dims[2] = k.dims[2] = static_cast<uint32_t>(c.channels());
  const uint32_t stride = c.batch == 1 ? 0 : static_cast<uint32_t>(c.stride());
  const AttentionParams params = {static_cast<uint32_t>(c.heads), c.scale, stride, c.gain != 0};
  const AttentionShape shape(q, k, params);
  std::vector<int32_t> ranges;
  for (int b = 0; b < c.batch; ++b)
    for (int i = 0; i < c.queries; ++i) ranges.insert(ranges.end(), {c.of(b, i).first, c.of(b, i).second});
  TensorView range;
  range.rank = 3;
  range.data = ranges.data();
  range.dims[0] = static_cast<uint32_t>(c.batch), range.dims[1] = static_cast<uint32_t>(c.queries), range.dims[2] = 2;

  const int64_t outputs = int64_t{c.batch} * c.queries * c.channels();
  Rows o(outputs + 8);
  for (int64_t i = 0; i < outputs + 8; ++i) o.data[i] = kNaN;
  std::vector<float> lse(static_cast<size_t>(c.batch) * c.heads * c.queries + 1, NAN);
  const int pieces = c.shared ? static_cast<int>(ceilDiv(c.keys, c.pieceKeys)) : 1;
  std::vector<Pack<float, 4>> scratch(piecesScratch(shape, pieces) / 16 + 1);
  for (auto& pack : scratch) pack = {{NAN, NAN, NAN, NAN}};

  std::atomic<uint64_t> launches{0};
  CallFailure failure;
  KernelArgs args{};
  args.launches = &launches;
  args.device = &card;
  args.failure = &failure;
  args.scratch = scratch.data();
  uint32_t fault = 0;
  const WarpgroupAttention f = {o.data,
                                lse.data(),
                                shape,
                                KeyRanges(c.range ? range : TensorView{}, shape.keys),
                                c.scale * Exponent<bf16>::perNatural,
                                c.gain != 0,
                                &fault};
  withWarpgroupWidth(c.width, [&](auto geometry) {
    launchAttentionWarpgroups<decltype(geometry)>(args, {x.q.data, x.k.data, x.v.data, c.keyRows()}, f, pieces,
                                                  c.pieceKeys);
  });
  EXPECT(!failure.code && launches == (pieces > 1 ? 2 : 1));
  for (int i = 0; i < 8; ++i) EXPECT(o.data[outputs + i].bits == kNaN.bits);
  EXPECT(std::isnan(lse.back()));
  Result r;
  for (int64_t i = 0; i < outputs; ++i) r.o.push_back(o.data[i].bits);
  r.lse.assign(lse.begin(), lse.end() - 1);
  r.fault = fault != 0;
  return r;
}

double valueOf(uint16_t bits) { return toFloat(bf16{bits}); }
double roundedToBf16(double x) { return toFloat(roundToBf16(static_cast<float>(x))); }

// The largest error of o by the largest of its magnitudes, and of the plain computation, where weights and results are
// bf16; of lse.
void isRight(const Case& c) {
  const Operands x = operandsOf(c);
  const Result got = attend(c, x);
  EXPECT(!got.fault);
  double error = 0, plainError = 0, largest = 0, lseError = 0;
  for (int b = 0; b < c.batch; ++b)
    for (int h = 0; h < c.heads; ++h)
      for (int i = 0; i < c.queries; ++i) {
        const auto [start, end] = c.of(b, i);
        const int64_t at = (int64_t{b} * c.queries + i) * c.channels() + h * c.width;
        const auto row = [&](int j) { return (int64_t{b} * c.stride() + j) * c.channels() + h * c.width; };
        std::vector<double> scores;
        for (int j = start; j < end; ++j) {
          double dot = 0;
          for (int d = 0; d < c.width; ++d) dot += double{toFloat(x.q.data[at + d])} * toFloat(x.k.data[row(j) + d]);
          scores.push_back(dot * c.scale);
        }
        const double most = scores.empty() ? 0 : *std::max_element(scores.begin(), scores.end());
        double total = 0;
        for (double s : scores) total += std::exp(s - most);
        const double lse = total > 0 ? most + std::log(total) : 0;
        lseError = std::max(lseError, std::abs(got.lse[(b * c.heads + h) * c.queries + i] - lse));
        for (int d = 0; d < c.width; ++d) {
          double want = 0, plain = 0;
          for (size_t j = 0; j < scores.size(); ++j) {
            const double w = std::exp(scores[j] - most), v = toFloat(x.v.data[row(start + static_cast<int>(j)) + d]);
            want += w * v;
            plain += roundedToBf16(w) * v;
          }
          want /= total > 0 ? total : 1;
          plain = roundedToBf16(plain / (total > 0 ? total : 1));
          const double o = valueOf(got.o[at + d]);
          EXPECT(std::isfinite(o));
          error = std::max(error, std::abs(o - want));
          plainError = std::max(plainError, std::abs(plain - want));
          largest = std::max(largest, std::abs(want));
        }
      }
  const bool right = error <= 2 * plainError && lseError <= 4e-6 * (1 + std::abs(c.gain) + c.scale * c.width);
  if (!right)
    std::fprintf(stderr, "%d x %d of %d, %d heads of %d, gain %g: error %g, plain %g, of %g; lse %g\n", c.batch,
                 c.queries, c.keys, c.heads, c.width, c.gain, error, plainError, largest, lseError);
  EXPECT(right);
}

Range causal(int, int q) {
  const int scales[] = {1, 5, 21, 57, 121, 265, 521};
  return {0, *std::upper_bound(scales, scales + 7, q)};
}
Range scattered(int b, int q) { return {(q * 7 + b) % 11, q % 9 == 4 ? 0 : 12 + q * 5 % 250}; }
Range some(int, int q) { return q % 2 ? Range{0, 0} : Range{3, 4 + q}; }

void followsTheDefinition() {
  for (int width : {8, 24, 64, 72, 96, 104, 112, 120, 128, 136, 224, 256}) isRight({1, 18, 67, 2, width});
  isRight({1, 1, 1, 1, 64});
  isRight({2, 131, 300, 2, 64});
  isRight({1, 265, 265, 1, 32, -1, causal});
  isRight({2, 140, 262, 1, 96, -1, scattered});
  isRight({1, 33, 40, 1, 64, -1, some});
  // Packed texts, of which each sample has its own.
  isRight({3, 20, 300, 2, 64, 0, [](int b, int) { return std::array<Range, 3>{{{0, 5}, {5, 267}, {267, 300}}}[b]; }});
  // Pieces, within a block and shared out.
  for (bool shared : {false, true}) {
    isRight({1, 130, 600, 1, 64, -1, {}, 0.5f, 0, 128, shared});
    isRight({2, 140, 262, 1, 128, -1, scattered, 0.5f, 0, 128, shared});
    isRight({1, 70, 262, 2, 224, -1, scattered, 0.5f, 0, 128, shared});
  }
}

void boundedLogitsAreAsAccurate() {
  for (float gain : {1.0f, 10.0f, 20.0f, 30.0f, 40.0f, 43.9f, 44.1f, 100.0f})
    for (Queries kind : {Queries::drawn, Queries::dominated}) {
      isRight({1, 40, 260, 1, 64, -1, {}, 1.0f, gain, kPieceKeys, false, 2, kind});
      isRight({1, 30, 130, 1, 128, -1, {}, 1.0f, gain, 128, true, 2, kind});
    }
  // What is beyond the bound must be seen to be, whichever channel it lies in.
  isRight({1, 104, 20, 1, 104, -1, {}, 1.0f, 2000, kPieceKeys, false, 2, Queries::concentrated});
}
void scoresMayBeFarBelowZero() {
  isRight({1, 20, 150, 1, 64, -1, {}, 1.0f, 0, kPieceKeys, false, 2, Queries::opposed});
}

bool sameBits(const Case& a, const Case& b, const Operands& x) { return attend(a, x) == attend(b, x); }

// Blocks, pieces that are shared out or not, caches that hold few heads.
void divisionsChangeNoBit() {
  for (float gain : {0.0f, 20.0f})
    for (const auto& range : {std::function<Range(int, int)>(), std::function<Range(int, int)>(scattered)}) {
      Case c = {2, 200, 520, 2, 64, -1, range, 0.5f, gain, 128, false, 1};
      const Operands x = operandsOf(c);
      Case many = c, shared = c;
      many.processors = 64;
      shared.shared = true;
      shared.processors = 5;
      EXPECT(sameBits(c, many, x));
      EXPECT(sameBits(c, shared, x));
    }
}

// A sample alone, a query alone; a row whose way is its own beside rows of the other way.
void neighboursChangeNoBit() {
  for (float gain : {0.0f, 40.0f}) {
    const Case c = {3, 150, 280, 2, 64, -1, scattered, 1.0f, gain, 256};
    Operands x = operandsOf(c);
    // Every third query is beyond the bound.
    if (gain)
      for (int i = 0; i < 3 * 150; i += 3)
        for (int d = 0; d < c.channels(); ++d) {
          bf16& q = x.q.data[i * c.channels() + d];
          q = fromFloat<bf16>(2 * toFloat(q));
        }
    const Result whole = attend(c, x);
    const auto part = [&](const Rows& of, int64_t first, int64_t count) {
      Rows rows(count);
      std::memcpy(rows.data, of.data + first, static_cast<size_t>(count) * sizeof(bf16));
      return rows;
    };
    const int64_t q = c.queries * c.channels(), k = c.keys * c.channels();
    for (int b = 0; b < 3; ++b) {
      Case alone = c;
      alone.batch = 1;
      alone.range = [&, b](int, int i) { return scattered(b, i); };
      const Operands own = {part(x.q, b * q, q), part(x.k, b * k, k), part(x.v, b * k, k)};
      EXPECT(attend(alone, own) == whole.sample(b, 3));
    }
    for (int i : {0, 3, 64, 149}) {
      Case alone = c;
      alone.batch = alone.queries = 1;
      alone.range = [&, i](int, int) { return scattered(1, i); };
      const Result got =
          attend(alone, {part(x.q, q + i * c.channels(), c.channels()), part(x.k, k, k), part(x.v, k, k)});
      EXPECT(std::equal(got.o.begin(), got.o.end(), whole.o.begin() + q + i * c.channels()));
      for (int h = 0; h < c.heads; ++h) EXPECT(got.lse[h] == whole.lse[(c.heads + h) * c.queries + i]);
    }
  }
}

// Keys in a longer buffer whose other rows are no numbers, from another row on.
void placesChangeNoBit() {
  const Case c = {2, 70, 200, 2, 72, -1, {}, 0.5f, 0, 128};
  const Operands x = operandsOf(c);
  const Result want = attend(c, x);
  for (int start : {0, 5}) {
    Case cached = c;
    cached.keys = 333;
    cached.sampleStride = 211;
    cached.range = [&](int, int) { return Range{start, start + c.keys}; };
    const int64_t all = int64_t{cached.keyRows()} * c.channels();
    Operands y = {x.q, Rows(all), Rows(all)};
    for (int64_t i = 0; i < all; ++i) y.k.data[i] = y.v.data[i] = kNaN;
    for (int b = 0; b < c.batch; ++b) {
      const int64_t to = (int64_t{b} * cached.sampleStride + start) * c.channels(),
                    from = int64_t{b} * c.keys * c.channels();
      const size_t bytes = static_cast<size_t>(c.keys) * c.channels() * sizeof(bf16);
      std::memcpy(y.k.data + to, x.k.data + from, bytes);
      std::memcpy(y.v.data + to, x.v.data + from, bytes);
    }
    EXPECT(attend(cached, y) == want);
  }
}

void faultsAreRaised() {
  for (const Range& range : {Range{0, 41}, Range{-1, 4}}) {
    const Case c = {1, 3, 40, 1, 64, -1, [&](int, int q) { return q == 1 ? range : Range{0, 40}; }};
    EXPECT(attend(c, operandsOf(c)).fault);
  }
}

void pieceCountsAreSensible() {
  const DeviceFacts h200 = {132, 90, 232448, 50u << 20};
  const auto pieces = [&](uint32_t batch, uint32_t queries, uint32_t keys) {
    TensorView q, k;
    q.rank = k.rank = 3;
    q.dims[0] = batch, q.dims[1] = queries, q.dims[2] = k.dims[2] = 2048;
    k.dims[0] = batch, k.dims[1] = keys;
    return sharedPieces(AttentionShape(q, k, {16, 1, keys, 0}), h200);
  };
  EXPECT(pieces(2, 4096, 10521) == 1 && pieces(1, 64, 2000) == 1);
  EXPECT(pieces(1, 64, 10521) == 6 && pieces(2, 256, 4121) == 3);
}

}  // namespace

int main() {
  pieceCountsAreSensible();
  followsTheDefinition();
  boundedLogitsAreAsAccurate();
  scoresMayBeFarBelowZero();
  divisionsChangeNoBit();
  neighboursChangeNoBit();
  placesChangeNoBit();
  faultsAreRaised();
}
