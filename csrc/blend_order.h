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
#pragma once

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "sample_index.h"

namespace order {

__extension__ typedef __int128 int128;

// Bends 0 .. num_bends-1 at `starts` (tokens), source values `bases` [bend][source], last shares.
class Targets {
 public:
  Targets(const int64_t* starts, const int64_t* bases, const int64_t* shares, int64_t num_bends,
          int64_t num_sources)
      : starts_(starts), bases_(bases), shares_(shares), bends_(num_bends), sources_(num_sources) {
    if (num_bends < 1 || num_sources < 1) {
      throw std::invalid_argument("at least one bend and one source are needed, found " +
                                  std::to_string(num_bends) + " and " +
                                  std::to_string(num_sources));
    }
    for (int64_t k = 0; k < num_bends; ++k) check_bend(k);
    int128 sum = 0;
    for (int64_t j = 0; j < num_sources; ++j) {
      check_range("share", shares[j]);
      sum += shares[j];
    }
    if (sum > kMaxTokens) throw std::invalid_argument("the shares sum to more than 2^62");
    denominator_ = static_cast<int64_t>(sum);
  }

  bool ends(int64_t source) const { return shares_[source] == 0; }
  int64_t cap(int64_t source) const { return base(bends_ - 1, source); }

  // The largest whole W with F(W) <= tokens; the source may go beyond `tokens` after it.
  int64_t release(int64_t source, int64_t tokens) const {
    int64_t k = bends_ - 1;
    while (base(k, source) > tokens) --k;
    const int64_t slope = slope_at(k, source);
    if (slope == 0) return std::numeric_limits<int64_t>::max();
    const int128 steps = int128{tokens - base(k, source)} * denominator_at(k) / slope;
    return narrow(starts_[k] + steps);
  }

  struct Deadline {
    int64_t whole, rest, over;  // whole + rest / over
    bool operator<(const Deadline& other) const {
      if (whole != other.whole) return whole < other.whole;
      return int128{rest} * other.over < int128{other.rest} * over;
    }
  };

  // The smallest W with F(W) >= min(tokens, cap); tokens > 0.
  Deadline deadline(int64_t source, int64_t tokens) const {
    if (ends(source) && cap(source) < tokens) tokens = cap(source);
    int64_t k = 0;
    while (k + 1 < bends_ && base(k + 1, source) < tokens) ++k;
    const int64_t slope = slope_at(k, source);
    const int128 scaled = int128{tokens - base(k, source)} * denominator_at(k);
    return {narrow(starts_[k] + scaled / slope), static_cast<int64_t>(scaled % slope), slope};
  }

 private:
  static void check_range(const char* what, int64_t value) {
    if (value < 0 || value > kMaxTokens) {
      throw std::invalid_argument(std::string("a ") + what + " must be in [0, 2^62], found " +
                                  std::to_string(value));
    }
  }
  static int64_t narrow(int128 value) {
    if (value > std::numeric_limits<int64_t>::max() - 1) {
      return std::numeric_limits<int64_t>::max() - 1;  // later than any order gets
    }
    return static_cast<int64_t>(value);
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
  }
  int64_t base(int64_t k, int64_t j) const { return bases_[k * sources_ + j]; }
  int64_t slope_at(int64_t k, int64_t j) const {
    return k + 1 < bends_ ? base(k + 1, j) - base(k, j) : shares_[j];
  }
  int64_t denominator_at(int64_t k) const {
    return k + 1 < bends_ ? starts_[k + 1] - starts_[k] : denominator_;
  }

  const int64_t *starts_, *bases_, *shares_;
  int64_t bends_, sources_, denominator_ = 0;
};

// The sizes of a source's next samples, as far as they are known.
struct Sizes {
  const int64_t* tokens;
  int64_t count;
  bool more;  // others follow behind these
};

// Chooses samples until the sum reaches `max_tokens`, every source has ended, or the next size of a
// source that goes on is not known. `given` (tokens by source) is carried from call to call, so
// the order does not depend on how the sizes are cut into calls.
inline std::vector<int32_t> blend_order(const Targets& targets, const std::vector<Sizes>& sizes,
                                        int64_t sequence_length, int64_t max_tokens,
                                        std::vector<int64_t>& given) {
  check_sequence_length(sequence_length);
  const int64_t num_sources = static_cast<int64_t>(sizes.size());
  std::vector<int64_t> taken(num_sources, 0), opens_at(num_sources);
  std::vector<Targets::Deadline> deadlines(num_sources);
  int64_t total = 0, num_live = 0;

  // Takes the next size of `j` into account; false when it is not known yet.
  const auto advance = [&](int64_t j) {
    if (taken[j] == sizes[j].count) {
      if (sizes[j].more) return false;
      if (!targets.ends(j) || given[j] != targets.cap(j)) {
        throw std::invalid_argument("source " + std::to_string(j) + " has no samples left after " +
                                    std::to_string(given[j]) + " tokens, its target goes on to " +
                                    (targets.ends(j) ? std::to_string(targets.cap(j)) : "no end"));
      }
      opens_at[j] = std::numeric_limits<int64_t>::max();
      --num_live;
      return true;
    }
    const int64_t size = sizes[j].tokens[taken[j]];
    if (size < 1 || size > sequence_length || (targets.ends(j) && size > targets.cap(j) - given[j])) {
      throw std::invalid_argument("sample " + std::to_string(taken[j]) + " of source " +
                                  std::to_string(j) + " has " + std::to_string(size) +
                                  " tokens after " + std::to_string(given[j]) +
                                  "; it must have 1 to " + std::to_string(sequence_length) +
                                  " and stay within its target");
    }
    opens_at[j] = targets.release(j, given[j]) - size + 1;
    deadlines[j] = targets.deadline(j, given[j] + sequence_length);
    return true;
  };

  std::vector<int32_t> result;
  for (int64_t j = 0; j < num_sources; ++j) {
    if (given[j] < 0 || given[j] > kMaxTokens - total) {
      throw std::invalid_argument("source " + std::to_string(j) + " cannot have given " +
                                  std::to_string(given[j]) + " tokens");
    }
    total += given[j];
  }
  num_live = num_sources;
  bool known = true;
  for (int64_t j = 0; j < num_sources; ++j) known = advance(j) && known;
  while (known && num_live > 0 && total < max_tokens) {
    int64_t best = -1;
    for (int64_t j = 0; j < num_sources; ++j) {
      if (opens_at[j] <= total && (best < 0 || deadlines[j] < deadlines[best])) best = j;
    }
    if (best < 0) {
      throw std::invalid_argument("no source is due at " + std::to_string(total) +
                                  " tokens: what was given is not a prefix of this order");
    }
    const int64_t size = sizes[best].tokens[taken[best]++];
    given[best] += size;
    total += size;
    result.push_back(static_cast<int32_t>(best));
    known = advance(best);
  }
  return result;
}

}  // namespace order
