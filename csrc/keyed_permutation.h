// A keyed permutation of 0..n-1, computed point by point: nothing of size n is kept.
//
// A generalised Feistel network (Black and Rogaway, CT-RSA 2002) on a grid of a x b >= n points,
// a = ceil(sqrt n), b = ceil(n / a), where x = l * b + r: half rounds l += f(r) mod a and
// r += f(l) mod b by turns. A point that lands in the a * b - n < a surplus ones goes through the
// network again. f is a 32-bit integer hash whose high half of a product falls into the range, with
// 64 bits of round key from splitmix64 (Steele, Lea, Flood 2014). Integer arithmetic only, so that
// every platform gives the same order. Not cryptography: it must look random to training, no more.
#pragma once

#include <array>
#include <cstdint>

namespace order {

inline uint64_t splitmix64(uint64_t key, uint64_t counter) {
  uint64_t z = key + (counter + 1) * 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

constexpr int64_t kMaxItems = int64_t{1} << 62;
// Six half rounds, but sixteen for few items, where they cost nothing and six visibly prefer some
// orders (of 3 x 2 points, say) to others.
constexpr int kLeastRounds = 6, kMostRounds = 16;
constexpr int64_t kFewItems = 4096;
constexpr int kPermutationBatch = 256;

class KeyedPermutation {
 public:
  KeyedPermutation(uint64_t key, int64_t num_items);  // throws unless num_items is in [1, 2^62]

  int64_t num_items() const { return num_items_; }
  // images[i] = p(first + i) for i < count <= kPermutationBatch; the caller has checked the range.
  void map_range(int64_t first, int count, int64_t* images) const;
  // points[i] = p(points[i]) for i < count <= kPermutationBatch, each in [0, num_items).
  void map(int64_t* points, int count) const;
  // The inverse of both: p(points[i]) = first + i, and images[i] = p^-1(images[i]).
  void unmap_range(int64_t first, int count, int64_t* points) const;
  void unmap(int64_t* images, int count) const;

 private:
  struct Round {
    uint32_t before, between;
  };
  struct Half {
    alignas(64) uint32_t left[kPermutationBatch], right[kPermutationBatch];
  };
  void split_range(int64_t first, int count, Half& half) const;
  void split(const int64_t* points, int count, Half& half) const;
  template <bool kBack>
  void rounds(Half& half, int count) const;
  template <bool kBack>
  void join(Half& half, int count, int64_t* numbers) const;

  int64_t num_items_;
  uint32_t rows_, columns_;  // a, b
  uint64_t reciprocal_;      // floor((2^64 - 1) / b)
  int num_rounds_;
  std::array<Round, kMostRounds> rounds_;
};

// p(first) .. p(first + count - 1). Throws when they are not all in 0..num_items-1.
void permute(uint64_t key, int64_t num_items, int64_t first, int64_t count, int64_t* images);

// Throws unless first .. first + count - 1 lie in 0..num_items-1.
void check_positions(int64_t first, int64_t count, int64_t num_items);

}  // namespace order
