// A keyed permutation of 0..n-1: indices sorted by a 64-bit counter-based rank, ties by index.
// rank(i) = finalizer of splitmix64 (Steele, Lea, Flood 2014) at state key + (i + 1) * golden gamma:
// integer arithmetic only, so that every platform and every version gives the same order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "keyed_permutation.h"

namespace order {

inline std::vector<int64_t> permutation(uint64_t key, int64_t num_items) {
  if (num_items < 0 || num_items > int64_t{1} << 40) {
    throw std::invalid_argument("num_items must be in [0, 2^40], found " +
                                std::to_string(num_items));
  }
  // Buckets by the rank's leading bits keep each sort inside the cache: about 64 items a bucket.
  int bits = 1;
  while (bits < 30 && (int64_t{64} << bits) < num_items) ++bits;
  const int shift = 64 - bits;
  std::vector<int64_t> ends((std::size_t{1} << bits) + 1, 0);
  for (int64_t i = 0; i < num_items; ++i) ++ends[(splitmix64(key, i) >> shift) + 1];
  for (std::size_t b = 1; b < ends.size(); ++b) ends[b] += ends[b - 1];

  std::vector<std::pair<uint64_t, int64_t>> ranked(num_items);
  std::vector<int64_t> next(ends.begin(), ends.end() - 1);
  for (int64_t i = 0; i < num_items; ++i) {
    const uint64_t rank = splitmix64(key, i);
    ranked[next[rank >> shift]++] = {rank, i};
  }
  std::vector<int64_t> result(num_items);
  for (std::size_t b = 0; b + 1 < ends.size(); ++b) {
    std::sort(ranked.begin() + ends[b], ranked.begin() + ends[b + 1]);
    for (int64_t i = ends[b]; i < ends[b + 1]; ++i) result[i] = ranked[i].second;
  }
  return result;
}

}  // namespace order
