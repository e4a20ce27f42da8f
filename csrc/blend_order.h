// Which source each sample comes from: Tijdeman's chairman assignment (Discrete Math. 32, 1980),
// in tokens and with targets whose rates may change.
//
// Targets. F_j(W) is how many of the first W tokens source j should have given: piecewise linear,
// non-decreasing, sum over j = W. It is given by integer values at the bends and, behind the last
// bend, by shares; a source whose last share is 0 ends at its value there (its cap).
//
// Rule. With w_j tokens given so far, W their sum, l_j the next sample of j and S the longest
// sample: j is eligible when w_j < F_j(W + l_j); the eligible source with the earliest deadline
// goes next, where the deadline is the W at which F_j(W) reaches w_j + S (or j's cap, if that comes
// first). Ties go to the lower number.
//
// Bound. At every prefix |w_j - F_j(W)| < S. Lead: by eligibility. Lag: suppose i waits past its
// deadline D, at T > D. Let t0 be the last prefix before T at which a source with a deadline after
// D was chosen (that sample ends at t1 <= t0 + S; if there is none, t0 = t1 = 0). All sources with
// deadlines up to D were not eligible at t0, so they had w_j >= F_j(t0); until T only they were
// chosen, for samples that end at or below F_j(D). Hence T - t1 <= sum over them of
// F_j(D) - F_j(t0), less the S of i that is missing: T <= D - S + (t1 - t0) <= D. Some source is
// always eligible, since the w_j and the F_j(W) have the same sum.
//
// Work. Few sources are looked through one by one. Many stand in two calendars, rings of buckets
// of about one sequence: by the token at which they open, and by deadline once they are open. A
// bucket of the latter is a pairing heap (Fredman, Sedgewick, Sleator, Tarjan 1986), since sources
// of equal shares have equal deadlines; what lies beyond a ring stands in a binary heap, and is
// chosen too rarely to matter. The W at which F_j reaches w_j is carried as quotient and remainder,
// so that a sample costs additions and, where it is not S long, one rounded division put right by
// its remainder. No comparison is ever rounded.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "limits.h"

namespace order {

__extension__ typedef __int128 int128;

// Bends 0 .. num_bends-1 at `starts` (tokens), source values `bases` [bend][source], last shares.
class Targets {
 public:
  Targets(std::vector<int64_t> starts, std::vector<int64_t> bases, std::vector<int64_t> shares)
      : starts_(std::move(starts)),
        bases_(std::move(bases)),
        shares_(std::move(shares)),
        bends_(static_cast<int64_t>(starts_.size())),
        sources_(static_cast<int64_t>(shares_.size())) {
    if (bends_ < 1 || sources_ < 1) {
      throw std::invalid_argument("at least one bend and one source are needed, found " +
                                  std::to_string(bends_) + " and " + std::to_string(sources_));
    }
    if (sources_ > kMaxSources) {
      throw std::invalid_argument("at most 2^30 sources can be blended, found " +
                                  std::to_string(sources_));
    }
    for (int64_t k = 0; k < bends_; ++k) check_bend(k);
    int128 sum = 0;
    for (const int64_t share : shares_) {
      check_range("share", share);
      sum += share;
    }
    if (sum > kMaxTokens) throw std::invalid_argument("the shares sum to more than 2^62");
    denominator_ = static_cast<int64_t>(sum);
  }

  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  static constexpr int64_t kBeyond = kNever - 1;  // later than any order gets
  static constexpr int64_t kMaxSources = int64_t{1} << 30;

  int64_t num_sources() const { return sources_; }
  bool ends(int64_t source) const { return shares_[source] == 0; }
  int64_t cap(int64_t source) const { return base(bends_ - 1, source); }

  // Whole tokens and what is left over, of over-ths. Whole values beyond 2^63 are kBeyond.
  struct Point {
    int64_t whole, rest, over;
  };

  // The largest whole W with F(W) <= tokens; the source may go beyond `tokens` after it.
  int64_t release(int64_t source, int64_t tokens) const {
    const int64_t k = segment_from(source, tokens);
    return slope_at(k, source) == 0 ? kNever : point(k, source, tokens).whole;
  }

  // The smallest W with F(W) >= min(tokens, cap); tokens > 0.
  Point deadline(int64_t source, int64_t tokens) const {
    tokens = capped(source, tokens);
    return point(segment_to(source, tokens), source, tokens);
  }

  // The whole part of `deadline`, however large.
  int128 whole_deadline(int64_t source, int64_t tokens) const {
    tokens = capped(source, tokens);
    const int64_t k = segment_to(source, tokens);
    return starts_[k] + scaled(k, source, tokens) / slope_at(k, source);
  }

  // The straight piece of F that `tokens` lies on or at the start of.
  struct Line {
    int64_t slope, denominator;  // F grows by slope / denominator a token
    int64_t limit;               // up to here in tokens of the source, and to W <= 2^62
    Point at;                    // the W at which F reaches `tokens`
  };
  Line line(int64_t source, int64_t tokens) const {
    const int64_t k = segment_from(source, tokens);
    const int64_t slope = slope_at(k, source), denominator = denominator_at(k);
    if (slope == 0) return {0, 1, -1, {0, 0, 1}};
    const int128 far = base(k, source) + int128{kMaxTokens - starts_[k]} * slope / denominator;
    const int64_t end = k + 1 < bends_ ? base(k + 1, source) : kMaxTokens;
    const int64_t limit = far < end ? static_cast<int64_t>(far) : end;
    return {slope, denominator, limit, point(k, source, tokens)};
  }

 private:
  static void check_range(const char* what, int64_t value) {
    if (value < 0 || value > kMaxTokens) {
      throw std::invalid_argument(std::string("a ") + what + " must be in [0, 2^62], found " +
                                  std::to_string(value));
    }
  }
  void check_bend(int64_t k) const {
    int128 sum = 0;
    for (int64_t j = 0; j < sources_; ++j) {
      check_range("target", base(k, j));
      sum += base(k, j);
      if (k == 0 ? base(k, j) != 0 : base(k, j) < base(k - 1, j)) {
        throw std::invalid_argument("the target of source " + std::to_string(j) +
                                    " must begin at 0 and not fall, found " +
                                    std::to_string(base(k, j)) + " at bend " + std::to_string(k));
      }
    }
    if (sum != starts_[k] || (k > 0 && starts_[k] <= starts_[k - 1])) {
      throw std::invalid_argument("the targets at bend " + std::to_string(k) + " must sum to its " +
                                  std::to_string(starts_[k]) + " tokens and lie behind bend " +
                                  std::to_string(k - 1));
    }
    if (starts_[k] > kMaxTokens) {
      throw std::invalid_argument("bend " + std::to_string(k) + " lies beyond 2^62 tokens, at " +
                                  std::to_string(starts_[k]));
    }
  }
  int64_t segment_from(int64_t source, int64_t tokens) const {
    int64_t k = bends_ - 1;
    while (base(k, source) > tokens) --k;
    return k;
  }
  int64_t segment_to(int64_t source, int64_t tokens) const {
    int64_t k = 0;
    while (k + 1 < bends_ && base(k + 1, source) < tokens) ++k;
    return k;
  }
  int64_t capped(int64_t source, int64_t tokens) const {
    return ends(source) ? std::min(tokens, cap(source)) : tokens;
  }
  int128 scaled(int64_t k, int64_t source, int64_t tokens) const {
    return int128{tokens - base(k, source)} * denominator_at(k);
  }
  Point point(int64_t k, int64_t source, int64_t tokens) const {
    const int64_t slope = slope_at(k, source);
    const int128 product = scaled(k, source, tokens), whole = starts_[k] + product / slope;
    return {whole > kBeyond ? kBeyond : static_cast<int64_t>(whole),
            static_cast<int64_t>(product % slope), slope};
  }
  int64_t base(int64_t k, int64_t j) const { return bases_[k * sources_ + j]; }
  int64_t slope_at(int64_t k, int64_t j) const {
    return k + 1 < bends_ ? base(k + 1, j) - base(k, j) : shares_[j];
  }
  int64_t denominator_at(int64_t k) const {
    return k + 1 < bends_ ? starts_[k + 1] - starts_[k] : denominator_;
  }

  std::vector<int64_t> starts_, bases_, shares_;
  int64_t bends_, sources_, denominator_ = 0;
};

// Which buckets of a ring hold something: a tree of 64-bit words, three deep.
class Occupied {
 public:
  explicit Occupied(int64_t num_buckets) {
    for (auto& level : levels_) {
      num_buckets = (num_buckets + 63) / 64;
      level.assign(num_buckets, 0);
    }
  }
  static constexpr int64_t kMostBuckets = 64 * 64 * 64;

  void add(int64_t bucket) {
    for (auto& level : levels_) {
      level[bucket >> 6] |= uint64_t{1} << (bucket & 63);
      bucket >>= 6;
    }
  }
  void remove(int64_t bucket) {
    for (auto& level : levels_) {
      if ((level[bucket >> 6] &= ~(uint64_t{1} << (bucket & 63))) != 0) return;
      bucket >>= 6;
    }
  }
  // The first occupied bucket from `bucket` on, round the ring; -1 when there is none.
  int64_t first_from(int64_t bucket) const {
    const int64_t found = first_behind(bucket);
    return found >= 0 || bucket == 0 ? found : first_behind(0);
  }

 private:
  int64_t first_behind(int64_t bucket) const {
    for (std::size_t depth = 0; depth < 3; ++depth) {
      const int64_t word = bucket >> 6;
      if (word >= static_cast<int64_t>(levels_[depth].size())) return -1;
      if (const uint64_t bits = levels_[depth][word] & (~uint64_t{0} << (bucket & 63))) {
        int64_t found = word << 6 | __builtin_ctzll(bits);
        while (depth-- > 0) found = found << 6 | __builtin_ctzll(levels_[depth][found]);
        return found;
      }
      bucket = word + 1;
    }
    return -1;
  }
  std::vector<uint64_t> levels_[3];
};

// How few sources are looked through: which of `count` with opens <= total have the least whole, a
// bit each (0: there is none), and how their numbers are set. count is a multiple of 4, at most
// kMostScanned; a place without a source opens never.
struct Scan {
  uint64_t (*earliest_open)(const int64_t* opens, const int64_t* wholes, int64_t count,
                            int64_t total);
  void (*set)(int64_t* opens, int64_t* wholes, int64_t j, int64_t open, int64_t whole);
};
constexpr int64_t kMostScanned = 64;
Scan choose_scan(int64_t num_sources);
int64_t most_scanned();  // more are faster through the calendars, on this processor

// The order of samples, a stretch at a time. Sizes of samples are fed per source, as they become
// known; the order does not depend on how they are cut into feeds, nor on how it is cut into
// stretches. Not for two threads at once.
class BlendOrder {
 public:
  // given: tokens that each source has given before. Up to `most_scanned` sources are looked
  // through one by one, which changes the speed alone.
  BlendOrder(Targets targets, int64_t sequence_length, const std::vector<int64_t>& given,
             int64_t most_scanned)
      : targets_(std::move(targets)),
        length_(sequence_length),
        num_live_(targets_.num_sources()),
        sources_(targets_.num_sources()),
        more_(targets_.num_sources(), true),
        fed_(targets_.num_sources(), 0),
        waiting_at_(targets_.num_sources(), kNone),
        scans_(targets_.num_sources() <= std::min(most_scanned, kMostScanned)),
        scan_(choose_scan(targets_.num_sources())),
        opens_(scans_ ? (targets_.num_sources() + 3) / 4 * 4 : 0, Targets::kNever),
        wholes_(opens_),
        occupied_(scans_ ? 0 : ring_size()) {
    check_sequence_length(sequence_length);
    const int64_t num_sources = targets_.num_sources();
    for (int64_t j = 0; j < num_sources; ++j) {
      if (given[j] < 0 || given[j] > kMaxTokens - total_) {
        throw std::invalid_argument("source " + std::to_string(j) + " cannot have given " +
                                    std::to_string(given[j]) + " tokens");
      }
      total_ += given[j];
      sources_[j].given = given[j];
      wait(static_cast<int32_t>(j));
    }
    if (scans_) return;
    while (shift_ < 30 && int64_t{2} << shift_ <= sequence_length) ++shift_;
    closed_.assign(ring_size(), kNone);
    open_.assign(ring_size(), kNone);
    mask_ = ring_size() - 1;
    closed_base_ = open_base_ = total_ >> shift_;
  }

  int64_t num_sources() const { return targets_.num_sources(); }
  int64_t total() const { return total_; }
  int64_t given(int64_t source) const { return sources_[source].given; }

  // Sources whose next sample's size is not known: nothing can be chosen before they are fed.
  const std::vector<int32_t>& waiting() const { return waiting_; }

  // The next `count` sizes of a source, each `stride` numbers behind the one before it, and whether
  // more will follow them. The source must be waiting; the memory must stay until it waits again.
  void feed(int64_t source, const int64_t* sizes, int64_t count, int64_t stride, bool more) {
    if (source < 0 || source >= num_sources()) {
      throw std::invalid_argument("source " + std::to_string(source) + " of " +
                                  std::to_string(num_sources()));
    }
    const int32_t place = waiting_at_[source];
    if (place == kNone) {
      throw std::invalid_argument("source " + std::to_string(source) + " waits for no sizes");
    }
    Source& fed = sources_[source];
    fed.next = sizes;
    fed.left = count;
    fed.stride = stride;
    fed_[source] += count;
    more_[source] = more;
    if (count == 0 && more) return;
    waiting_[place] = waiting_.back();
    waiting_at_[waiting_[place]] = place;
    waiting_.pop_back();
    waiting_at_[source] = kNone;
    fed.limit = -1;
    prepare(static_cast<int32_t>(source), 0);
  }

  // Writes source numbers until `room` are written, the sum of all samples reaches `max_tokens`,
  // every source has ended or one waits; to `samples`, unless it is null, the number of each sample
  // among all that its source was fed. Returns how many were written.
  template <typename Number>
  int64_t choose(Number* order, int64_t* samples, int64_t room, int64_t max_tokens) {
    return scans_ ? choose_by<true>(order, samples, room, max_tokens)
                  : choose_by<false>(order, samples, room, max_tokens);
  }

 private:
  static constexpr int32_t kNone = -1;

  struct alignas(64) Source {
    int64_t whole, rest, over;  // deadline of the next sample: whole + rest / over
    int64_t opens;              // the total from which on the next sample may be chosen
    int32_t child, sibling;     // neighbours in the calendars
    int64_t given;
    // F is straight up to here, and the W at which it reaches `given` is point + point_rest / over;
    // -1 when there is no such line at hand.
    int64_t limit;
    int64_t point, point_rest;
    int64_t step, step_rest;  // S tokens of the source take step + step_rest / over
    int64_t denominator;
    double inverse;  // denominator / over where that is near enough, else 0
    const int64_t* next;
    int64_t left, stride;
  };

  int64_t ring_size() const {
    int64_t size = 512;
    while (size < 4 * num_sources() && size < Occupied::kMostBuckets) size *= 2;
    return size;
  }

  template <bool kScans, typename Number>
  int64_t choose_by(Number* order, int64_t* samples, int64_t room, int64_t max_tokens) {
    int64_t count = 0;
    max_tokens = std::min(max_tokens, kMaxTokens);
    while (waiting_.empty() && num_live_ > 0 && total_ < max_tokens && count < room) {
      const int32_t best = kScans ? scan() : (open_due(), pop_open());
      if (best == kNone) {
        throw std::invalid_argument("no source is due at " + std::to_string(total_) +
                                    " tokens: what was given is not a prefix of this order");
      }
      Source& source = sources_[best];
      const int64_t size = *source.next;
      if (samples != nullptr) samples[count] = fed_[best] - source.left;
      source.next += source.stride;
      --source.left;
      source.given += size;
      total_ += size;
      order[count++] = static_cast<Number>(best);
      prepare(best, size);
    }
    return count;
  }

  // Takes the next size of `j` into account after a sample of `used` tokens.
  void prepare(int32_t j, int64_t used) {
    Source& source = sources_[j];
    if (source.left == 0) {
      end(j);
      return;
    }
    const int64_t size = *source.next;
    if (size < 1 || size > length_) refuse_size(j, size);
    if (source.given + length_ <= source.limit) {
      if (used == length_) {
        add(source, source.step, source.step_rest, source.point, source.point_rest);
      } else {
        const auto [step, rest] = steps(source, used);
        add(source, step, rest, source.point, source.point_rest);
      }
      source.whole = source.point;
      source.rest = source.point_rest;
      add(source, source.step, source.step_rest, source.whole, source.rest);
      source.opens = source.point - size + 1;
    } else {
      find_line(j, size);
    }
    if (scans_) {
      scan_.set(opens_.data(), wholes_.data(), j, source.opens, source.whole);
    } else if (source.opens <= total_) {
      push_open(j);
    } else {
      push_closed(j);
    }
  }

  static void add(const Source& source, int64_t step, int64_t step_rest, int64_t& whole,
                  int64_t& rest) {
    whole += step;
    rest += step_rest;
    const int64_t carry = rest >= source.over;
    whole += carry;
    rest -= carry ? source.over : 0;
  }

  // tokens * denominator / over as quotient and remainder.
  static std::pair<int64_t, int64_t> steps(const Source& source, int64_t tokens) {
    if (source.inverse == 0) {
      const int128 product = int128{tokens} * source.denominator;
      return {static_cast<int64_t>(product / source.over),
              static_cast<int64_t>(product % source.over)};
    }
    // The quotient is below 2^50, so the estimate is off by one at most, and the remainder, below
    // 2^63 in size, is right modulo 2^64.
    int64_t quotient = static_cast<int64_t>(static_cast<double>(tokens) * source.inverse);
    int64_t rest = static_cast<int64_t>(
        static_cast<uint64_t>(tokens) * static_cast<uint64_t>(source.denominator) -
        static_cast<uint64_t>(quotient) * static_cast<uint64_t>(source.over));
    while (rest < 0) {
      rest += source.over;
      --quotient;
    }
    while (rest >= source.over) {
      rest -= source.over;
      ++quotient;
    }
    return {quotient, rest};
  }

  // The general case of `prepare`: from the targets, in 128 bits.
  void find_line(int32_t j, int64_t size) {
    Source& source = sources_[j];
    if (targets_.ends(j) && size > targets_.cap(j) - source.given) refuse_size(j, size);
    source.opens = targets_.release(j, source.given) - size + 1;
    const Targets::Point deadline = targets_.deadline(j, source.given + length_);
    source.whole = deadline.whole;
    source.rest = deadline.rest;
    source.over = deadline.over;
    const Targets::Line line = targets_.line(j, source.given);
    source.limit = -1;
    if (source.given + length_ > line.limit) return;
    const int128 product = int128{length_} * line.denominator;  // W <= 2^62 up to the limit
    source.limit = line.limit;
    source.point = line.at.whole;
    source.point_rest = line.at.rest;
    source.step = static_cast<int64_t>(product / line.slope);
    source.step_rest = static_cast<int64_t>(product % line.slope);
    source.denominator = line.denominator;
    const bool near = source.step < int64_t{1} << 50 && line.slope < int64_t{1} << 61;
    source.inverse = near ? static_cast<double>(line.denominator) / static_cast<double>(line.slope)
                          : 0;
  }

  [[noreturn]] void refuse_size(int32_t j, int64_t size) {
    wait(j);
    fed_[j] -= sources_[j].left;  // what has been refused has not been fed
    throw std::invalid_argument("sample " + std::to_string(fed_[j]) +
                                " of source " + std::to_string(j) + " has " + std::to_string(size) +
                                " tokens after " + std::to_string(sources_[j].given) +
                                "; it must have 1 to " + std::to_string(length_) +
                                " and stay within its target");
  }

  // Source j has no size at hand.
  void end(int32_t j) {
    if (more_[j]) {
      wait(j);
      return;
    }
    if (!targets_.ends(j) || sources_[j].given != targets_.cap(j)) {
      wait(j);
      throw std::invalid_argument(
          "source " + std::to_string(j) + " has no samples left after " +
          std::to_string(sources_[j].given) + " tokens, its target goes on to " +
          (targets_.ends(j) ? std::to_string(targets_.cap(j)) : "no end"));
    }
    if (scans_) close(j);
    --num_live_;
  }

  void close(int32_t j) {
    scan_.set(opens_.data(), wholes_.data(), j, Targets::kNever, Targets::kNever);
  }

  void wait(int32_t j) {
    if (scans_) close(j);
    waiting_at_[j] = static_cast<int32_t>(waiting_.size());
    waiting_.push_back(j);
  }

  // Is the deadline of `a` before that of `b`, or as early and `a` the lower number?
  bool due_before(int32_t a, int32_t b) const {
    const Source &one = sources_[a], &two = sources_[b];
    if (one.whole != two.whole) return one.whole < two.whole;
    if (one.whole == Targets::kBeyond) {
      const int128 whole_one = targets_.whole_deadline(a, one.given + length_);
      const int128 whole_two = targets_.whole_deadline(b, two.given + length_);
      if (whole_one != whole_two) return whole_one < whole_two;
    }
    if (one.over == two.over) return one.rest != two.rest ? one.rest < two.rest : a < b;
    const int128 left = int128{one.rest} * two.over, right = int128{two.rest} * one.over;
    return left != right ? left < right : a < b;
  }

  int32_t scan() const {
    uint64_t due = scan_.earliest_open(opens_.data(), wholes_.data(),
                                       static_cast<int64_t>(opens_.size()), total_);
    int32_t best = kNone;
    for (; due != 0; due &= due - 1) {
      const int32_t j = __builtin_ctzll(due);
      if (best == kNone || due_before(j, best)) best = j;
    }
    return best;
  }

  // --- sources that open later: lists by bucket -------------------------------------------------

  auto opens_later() const {
    return [this](int32_t a, int32_t b) { return sources_[a].opens > sources_[b].opens; };
  }

  void push_closed(int32_t j) {
    const int64_t opens = sources_[j].opens, bucket = opens >> shift_;
    if (bucket - closed_base_ > mask_) {
      closed_far_.push_back(j);
      std::push_heap(closed_far_.begin(), closed_far_.end(), opens_later());
      return;
    }
    sources_[j].sibling = closed_[bucket & mask_];
    closed_[bucket & mask_] = j;
    if (bucket == closed_base_) next_opens_ = std::min(next_opens_, opens);
  }

  // Opens all that may be chosen at the present total.
  void open_due() {
    const int64_t now = total_ >> shift_;
    if (closed_base_ < now) {
      for (; closed_base_ < now; ++closed_base_) open_list(closed_base_, Targets::kNever);
      open_list(now, total_);
    } else if (next_opens_ <= total_) {
      open_list(now, total_);
    }
    while (!closed_far_.empty() && sources_[closed_far_.front()].opens <= total_) {
      std::pop_heap(closed_far_.begin(), closed_far_.end(), opens_later());
      push_open(closed_far_.back());
      closed_far_.pop_back();
    }
  }

  // Opens what opens by `total` in one bucket; the rest stays, and its first is remembered.
  void open_list(int64_t bucket, int64_t total) {
    int32_t j = closed_[bucket & mask_], kept = kNone;
    next_opens_ = Targets::kNever;
    while (j != kNone) {
      Source& source = sources_[j];
      const int32_t after = source.sibling;
      if (source.opens <= total) {
        push_open(j);
      } else {
        source.sibling = kept;
        kept = j;
        next_opens_ = std::min(next_opens_, source.opens);
      }
      j = after;
    }
    closed_[bucket & mask_] = kept;
  }

  // --- open sources: pairing heaps by bucket ----------------------------------------------------

  auto due_later() const {
    return [this](int32_t a, int32_t b) { return due_before(b, a); };
  }

  void push_open(int32_t j) {
    // A deadline before the ring's first bucket (`given` was no prefix of this order) stands in it.
    const int64_t bucket = std::max(sources_[j].whole >> shift_, open_base_);
    if (bucket - open_base_ > mask_) {
      open_far_.push_back(j);
      std::push_heap(open_far_.begin(), open_far_.end(), due_later());
      return;
    }
    sources_[j].child = kNone;
    int32_t& root = open_[bucket & mask_];
    if (root == kNone) {
      root = j;
      occupied_.add(bucket & mask_);
    } else {
      root = join(root, j);
    }
  }

  int32_t join(int32_t a, int32_t b) {
    if (due_before(b, a)) std::swap(a, b);
    sources_[b].sibling = sources_[a].child;
    sources_[a].child = b;
    return a;
  }

  // Takes the open source with the earliest deadline out; kNone when none is open.
  int32_t pop_open() {
    const int64_t place = occupied_.first_from(open_base_ & mask_);
    const int32_t near = place < 0 ? kNone : open_[place];
    // Nothing stands before this bucket, and nothing before the present total is put in rightly.
    int64_t base = total_ >> shift_;
    if (near != kNone) base = std::min(base, open_base_ + ((place - open_base_) & mask_));
    open_base_ = std::max(open_base_, base);
    if (!open_far_.empty() && (near == kNone || due_before(open_far_.front(), near))) {
      const int32_t far = open_far_.front();
      std::pop_heap(open_far_.begin(), open_far_.end(), due_later());
      open_far_.pop_back();
      return far;
    }
    if (near == kNone) return kNone;
    const int32_t rest = join_all(sources_[near].child);
    open_[place] = rest;
    if (rest == kNone) occupied_.remove(place);
    return near;
  }

  // One heap of a list of siblings: in pairs from the front, then the pairs from the back.
  int32_t join_all(int32_t first) {
    if (first == kNone) return kNone;
    int32_t pairs = kNone;
    while (first != kNone) {
      const int32_t second = sources_[first].sibling;
      if (second == kNone) {
        sources_[first].sibling = pairs;
        pairs = first;
        break;
      }
      const int32_t after = sources_[second].sibling, joined = join(first, second);
      sources_[joined].sibling = pairs;
      pairs = joined;
      first = after;
    }
    int32_t root = pairs;
    for (pairs = sources_[root].sibling; pairs != kNone;) {
      const int32_t after = sources_[pairs].sibling;
      root = join(root, pairs);
      pairs = after;
    }
    return root;
  }

  Targets targets_;
  int64_t length_, num_live_, total_ = 0;
  std::vector<Source> sources_;
  std::vector<char> more_;
  std::vector<int64_t> fed_;  // sizes, over all feeds
  std::vector<int32_t> waiting_, waiting_at_;  // the place of each source in the former, or none

  bool scans_;                           // few sources: no calendars, these two instead
  Scan scan_;
  std::vector<int64_t> opens_, wholes_;  // copies of the sources', kNever when there is no sample

  int shift_ = 0;  // a bucket is 2^shift_ tokens, the most that is not above S
  int64_t mask_ = 0;
  int64_t closed_base_ = 0, open_base_ = 0;   // the first bucket of each ring
  int64_t next_opens_ = Targets::kNever;      // of what stands in the first closed bucket
  std::vector<int32_t> closed_, closed_far_;  // first source by bucket; a heap
  std::vector<int32_t> open_, open_far_;      // root by bucket; a heap
  Occupied occupied_;
};

}  // namespace order
