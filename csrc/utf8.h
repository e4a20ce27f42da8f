// Is a piece of memory well-formed UTF-8? No overlong forms, no surrogates, nothing past U+10FFFF.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace utf8 {

// Bytes of the character that begins at `p`; 0 where none does before `end`.
inline int character_bytes(const uint8_t* p, const uint8_t* end) {
  const auto tail = [&](int i) { return (p[i] & 0xC0) == 0x80; };
  const uint8_t lead = *p;
  if (lead < 0x80) return 1;
  if (lead < 0xC2) return 0;  // a continuation, or an overlong form of ASCII
  if (lead < 0xE0) return end - p >= 2 && tail(1) ? 2 : 0;
  if (lead < 0xF0) {
    if (end - p < 3 || !tail(1) || !tail(2)) return 0;
    if (lead == 0xE0 && p[1] < 0xA0) return 0;  // overlong
    if (lead == 0xED && p[1] > 0x9F) return 0;  // a surrogate
    return 3;
  }
  if (lead > 0xF4 || end - p < 4 || !tail(1) || !tail(2) || !tail(3)) return 0;
  if (lead == 0xF0 && p[1] < 0x90) return 0;  // overlong
  if (lead == 0xF4 && p[1] > 0x8F) return 0;  // past U+10FFFF
  return 4;
}

inline bool is_valid_plain(const uint8_t* p, const uint8_t* end) {
  while (p < end) {
    uint64_t word;
    if (end - p >= 8 && (std::memcpy(&word, p, 8), (word & 0x8080808080808080u) == 0)) {
      p += 8;
      continue;
    }
    const int num_bytes = character_bytes(p, end);
    if (num_bytes == 0) return false;
    p += num_bytes;
  }
  return true;
}

#if defined(__x86_64__)
// Sixteen bytes at a time with three table look-ups (Keiser and Lemire 2021): every pair of
// neighbours is wrong when the nibbles of its two bytes agree on one kind of fault.
namespace pairs {
constexpr char kTooShort = 1 << 0;    // a lead byte before no continuation
constexpr char kTooLong = 1 << 1;     // ASCII before a continuation
constexpr char kOverlong3 = 1 << 2;   // E0 80..9F
constexpr char kTooLarge = 1 << 3;    // F4 90..BF, F5.. with a high second byte
constexpr char kSurrogate = 1 << 4;   // ED A0..BF
constexpr char kOverlong2 = 1 << 5;   // C0, C1
constexpr char kLarge1000 = 1 << 6;   // F5.. 80..8F; also F0 80..8F, which is overlong
constexpr char kOverlong4 = 1 << 6;
constexpr char kTwoTails = char(0x80);  // two continuations: right only inside 3 or 4 bytes
constexpr char kCarry = kTooShort | kTooLong | kTwoTails;  // nothing to say of the low nibble
}  // namespace pairs

__attribute__((target("ssse3"))) inline __m128i pair_faults(__m128i input, __m128i before) {
  using namespace pairs;
  const __m128i low_nibble = _mm_set1_epi8(0x0F);
  const __m128i first = _mm_alignr_epi8(input, before, 15);
  const auto high = [&](__m128i v) {
    return _mm_and_si128(_mm_srli_epi16(v, 4), low_nibble);
  };
  const __m128i by_first_high = _mm_shuffle_epi8(
      _mm_setr_epi8(kTooLong, kTooLong, kTooLong, kTooLong, kTooLong, kTooLong, kTooLong, kTooLong,
                    kTwoTails, kTwoTails, kTwoTails, kTwoTails, kTooShort | kOverlong2, kTooShort,
                    kTooShort | kOverlong3 | kSurrogate,
                    kTooShort | kTooLarge | kLarge1000 | kOverlong4),
      high(first));
  constexpr char kLarge = kCarry | kTooLarge | kLarge1000;
  const __m128i by_first_low = _mm_shuffle_epi8(
      _mm_setr_epi8(kCarry | kOverlong3 | kOverlong2 | kOverlong4, kCarry | kOverlong2, kCarry,
                    kCarry, kCarry | kTooLarge, kLarge, kLarge, kLarge, kLarge, kLarge, kLarge,
                    kLarge, kLarge, kLarge | kSurrogate, kLarge, kLarge),
      _mm_and_si128(first, low_nibble));
  constexpr char kTail = kTooLong | kOverlong2 | kTwoTails;
  const __m128i by_second_high = _mm_shuffle_epi8(
      _mm_setr_epi8(kTooShort, kTooShort, kTooShort, kTooShort, kTooShort, kTooShort, kTooShort,
                    kTooShort, kTail | kOverlong3 | kLarge1000 | kOverlong4,
                    kTail | kOverlong3 | kTooLarge, kTail | kSurrogate | kTooLarge,
                    kTail | kSurrogate | kTooLarge, kTooShort, kTooShort, kTooShort, kTooShort),
      high(input));
  const __m128i faults =
      _mm_and_si128(_mm_and_si128(by_first_high, by_first_low), by_second_high);
  // A continuation must follow a continuation exactly where a 3- or 4-byte lead stands before it.
  const __m128i second = _mm_alignr_epi8(input, before, 14);
  const __m128i third = _mm_alignr_epi8(input, before, 13);
  const __m128i inside = _mm_or_si128(_mm_subs_epu8(second, _mm_set1_epi8(char(0xE0 - 0x80))),
                                      _mm_subs_epu8(third, _mm_set1_epi8(char(0xF0 - 0x80))));
  return _mm_xor_si128(faults, _mm_and_si128(inside, _mm_set1_epi8(char(0x80))));
}

__attribute__((target("ssse3"))) inline bool is_valid_ssse3(const uint8_t* p, const uint8_t* end) {
  __m128i before = _mm_setzero_si128(), faults = _mm_setzero_si128();
  bool open = false;  // the bytes before may have begun a character
  while (end - p >= 16) {
    const __m128i input = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const bool ascii = _mm_movemask_epi8(input) == 0;
    if (!ascii || open) faults = _mm_or_si128(faults, pair_faults(input, before));
    open = !ascii;
    before = input;
    p += 16;
  }
  if (_mm_movemask_epi8(_mm_cmpeq_epi8(faults, _mm_setzero_si128())) != 0xFFFF) return false;
  // The rest, from the start of the character that may reach into it.
  if (open) {
    for (int back = 1; back <= 3; ++back) {
      if ((p[-back] & 0xC0) == 0x80) continue;
      if (p[-back] >= 0xC0) p -= back;
      break;
    }
  }
  return is_valid_plain(p, end);
}
#endif

inline bool is_valid(const uint8_t* p, const uint8_t* end) {
#if defined(__x86_64__)
  static const bool has_ssse3 = __builtin_cpu_supports("ssse3");
  if (has_ssse3) return is_valid_ssse3(p, end);
#endif
  return is_valid_plain(p, end);
}

}  // namespace utf8
