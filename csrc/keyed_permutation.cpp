#include "keyed_permutation.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

namespace order {

namespace {

constexpr uint32_t kFirst = 0x7FEB352Du, kSecond = 0x846CA68Bu;

// x[i] += f(y[i]) mod `modulus`, where x[i] < modulus <= 2^31; back: x[i] -= f(y[i]).
using HalfRound = void (*)(uint32_t* x, const uint32_t* y, uint32_t before, uint32_t between,
                           uint32_t modulus, int count);

template <bool kBack>
void half_round(uint32_t* __restrict x, const uint32_t* __restrict y, uint32_t before,
                uint32_t between, uint32_t modulus, int count) {
  for (int i = 0; i < count; ++i) {
    uint32_t h = y[i] ^ before;
    h ^= h >> 16;
    h *= kFirst;
    h ^= h >> 15;
    h += between;
    h *= kSecond;
    const uint32_t scaled = static_cast<uint32_t>((uint64_t{h} * modulus) >> 32);
    // Of the two, the one that leaves 0..modulus-1 wraps round.
    const uint32_t moved = kBack ? x[i] - scaled : x[i] + scaled;
    x[i] = std::min(moved, kBack ? moved + modulus : moved - modulus);
  }
}

#if defined(__x86_64__) && defined(__GNUC__)
// The same, eight at a time: a compiler does not find the two multiplications that give the high
// halves of eight products. `count` is a multiple of 8.
template <bool kBack>
__attribute__((target("avx2"))) void half_round_avx2(uint32_t* x, const uint32_t* y,
                                                     uint32_t before, uint32_t between,
                                                     uint32_t modulus, int count) {
  const __m256i first = _mm256_set1_epi32(kFirst);
  const __m256i second = _mm256_set1_epi32(static_cast<int>(kSecond));
  const __m256i range = _mm256_set1_epi32(static_cast<int>(modulus));
  const __m256i befores = _mm256_set1_epi32(static_cast<int>(before));
  const __m256i betweens = _mm256_set1_epi32(static_cast<int>(between));
  for (int i = 0; i < count; i += 8) {
    __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(y + i));
    h = _mm256_xor_si256(h, befores);
    h = _mm256_xor_si256(h, _mm256_srli_epi32(h, 16));
    h = _mm256_mullo_epi32(h, first);
    h = _mm256_xor_si256(h, _mm256_srli_epi32(h, 15));
    h = _mm256_add_epi32(h, betweens);
    h = _mm256_mullo_epi32(h, second);
    const __m256i even = _mm256_srli_epi64(_mm256_mul_epu32(h, range), 32);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(h, 32), range);
    const __m256i scaled = _mm256_blend_epi32(even, odd, 0xAA);
    __m256i* const target = reinterpret_cast<__m256i*>(x + i);
    const __m256i number = _mm256_loadu_si256(target);
    const __m256i moved =
        kBack ? _mm256_sub_epi32(number, scaled) : _mm256_add_epi32(number, scaled);
    const __m256i again = kBack ? _mm256_add_epi32(moved, range) : _mm256_sub_epi32(moved, range);
    _mm256_storeu_si256(target, _mm256_min_epu32(moved, again));
  }
}

template <bool kBack>
HalfRound choose_half_round() {
  return __builtin_cpu_supports("avx2") ? half_round_avx2<kBack> : half_round<kBack>;
}
#else
template <bool kBack>
HalfRound choose_half_round() {
  return half_round<kBack>;
}
#endif

const HalfRound kHalfRound = choose_half_round<false>(), kHalfRoundBack = choose_half_round<true>();

uint32_t ceil_sqrt(int64_t value) {
  uint64_t low = 1, high = uint64_t{1} << 31;  // the smallest root with root^2 >= value
  while (low < high) {
    const uint64_t middle = (low + high) / 2;
    if (middle * middle >= static_cast<uint64_t>(value)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return static_cast<uint32_t>(low);
}

}  // namespace

KeyedPermutation::KeyedPermutation(uint64_t key, int64_t num_items) : num_items_(num_items) {
  if (num_items < 1 || num_items > kMaxItems) {
    throw std::invalid_argument("num_items must be in [1, 2^62], found " +
                                std::to_string(num_items));
  }
  rows_ = ceil_sqrt(num_items);
  columns_ = static_cast<uint32_t>((num_items + rows_ - 1) / rows_);
  reciprocal_ = ~uint64_t{0} / columns_;
  const uint64_t state = splitmix64(key, 0);
  num_rounds_ = num_items < kFewItems ? kMostRounds : kLeastRounds;
  for (int i = 0; i < num_rounds_; ++i) {
    const uint64_t bits = splitmix64(state, i);
    rounds_[i] = {static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)};
  }
}

void KeyedPermutation::map_range(int64_t first, int count, int64_t* images) const {
  Half half;
  split_range(first, count, half);
  rounds<false>(half, count);
  join<false>(half, count, images);
}

void KeyedPermutation::map(int64_t* points, int count) const {
  Half half;
  split(points, count, half);
  rounds<false>(half, count);
  join<false>(half, count, points);
}

void KeyedPermutation::unmap_range(int64_t first, int count, int64_t* points) const {
  Half half;
  split_range(first, count, half);
  rounds<true>(half, count);
  join<true>(half, count, points);
}

void KeyedPermutation::unmap(int64_t* images, int count) const {
  Half half;
  split(images, count, half);
  rounds<true>(half, count);
  join<true>(half, count, images);
}

void KeyedPermutation::split_range(int64_t first, int count, Half& half) const {
  uint32_t left = static_cast<uint32_t>(first / columns_);
  uint32_t right = static_cast<uint32_t>(first % columns_);
  for (int i = 0; i < count; ++i) {
    half.left[i] = left;
    half.right[i] = right;
    if (++right == columns_) {
      right = 0;
      ++left;
    }
  }
}

void KeyedPermutation::split(const int64_t* points, int count, Half& half) const {
  __extension__ typedef unsigned __int128 uint128;
  for (int i = 0; i < count; ++i) {
    const uint64_t point = static_cast<uint64_t>(points[i]);
    uint64_t left = static_cast<uint64_t>((uint128{point} * reciprocal_) >> 64);
    uint64_t right = point - left * columns_;
    if (right >= columns_) {  // points are below 2^62: the estimate is low by one at most
      right -= columns_;
      ++left;
    }
    half.left[i] = static_cast<uint32_t>(left);
    half.right[i] = static_cast<uint32_t>(right);
  }
}

template <bool kBack>
void KeyedPermutation::rounds(Half& half, int count) const {
  const int padded = (count + 7) & ~7;
  for (int i = count; i < padded; ++i) half.left[i] = half.right[i] = 0;
  for (int i = 0; i < num_rounds_; ++i) {
    const int number = kBack ? num_rounds_ - 1 - i : i;
    const auto [before, between] = rounds_[number];
    const auto half_round = kBack ? kHalfRoundBack : kHalfRound;
    if (number % 2 == 0) {
      half_round(half.left, half.right, before, between, rows_, padded);
    } else {
      half_round(half.right, half.left, before, between, columns_, padded);
    }
  }
}

template <bool kBack>
void KeyedPermutation::join(Half& half, int count, int64_t* numbers) const {
  int64_t greatest = 0;
  for (int i = 0; i < count; ++i) {
    numbers[i] = static_cast<int64_t>(uint64_t{half.left[i]} * columns_ + half.right[i]);
    greatest = std::max(greatest, numbers[i]);
  }
  // What lies outside goes on along its cycle, which comes back to where it left 0..n-1.
  for (int i = 0; greatest >= num_items_ && i < count; ++i) {
    while (numbers[i] >= num_items_) {
      Half one;
      split(numbers + i, 1, one);
      rounds<kBack>(one, 1);
      numbers[i] = static_cast<int64_t>(uint64_t{one.left[0]} * columns_ + one.right[0]);
    }
  }
}

void check_positions(int64_t first, int64_t count, int64_t num_items) {
  if (first < 0 || count < 0 || count > num_items || first > num_items - count) {
    throw std::invalid_argument("positions " + std::to_string(first) + " and " +
                                std::to_string(count) + " on are not all among the " +
                                std::to_string(num_items) + " there are");
  }
}

void permute(uint64_t key, int64_t num_items, int64_t first, int64_t count, int64_t* images) {
  const KeyedPermutation permutation(key, num_items);
  check_positions(first, count, num_items);
  for (int64_t done = 0; done < count; done += kPermutationBatch) {
    const int batch = static_cast<int>(std::min<int64_t>(kPermutationBatch, count - done));
    permutation.map_range(first + done, batch, images + done);
  }
}

}  // namespace order
