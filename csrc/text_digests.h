// Digests of texts, the same for the same words: case folded, white space squeezed, then BLAKE2b.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "utf8.h"

namespace text_digests {

constexpr std::size_t kDigestBytes = 16;
constexpr uint32_t kAscii = 0x80;
constexpr uint32_t kCodePoints = 0x110000;
constexpr std::size_t kMostGrowth = 3;  // bytes of a folded character by those of its own

// What case folding makes of characters beyond ASCII; one space: the character is white space.
class Folding {
 public:
  explicit Folding(const std::vector<std::pair<uint32_t, std::string>>& changed) {
    for (const auto& [code, form] : changed) {
      const std::size_t own = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
      if (code < kAscii || code >= kCodePoints || form.empty() ||
          form.size() > kMostGrowth * own) {
        throw std::invalid_argument("character " + std::to_string(code) + " cannot become " +
                                    std::to_string(form.size()) + " bytes");
      }
      if (code - kAscii >= forms_.size()) forms_.resize(code - kAscii + 1, 0);
      forms_[code - kAscii] = static_cast<uint16_t>(spelled_.size());
      spelled_.push_back(form);
      if (spelled_.size() > 0xFFFF) throw std::invalid_argument("more than 65534 characters");
    }
  }

  // Bytes that are no UTF-8 stay as they are. `out` has room for kMostGrowth bytes a byte.
  std::size_t fold(const uint8_t* p, std::size_t num_bytes, uint8_t* const out) const {
    const uint8_t* const end = p + num_bytes;
    uint8_t* to = out;
    bool after_space = true;  // or at the beginning, where a space is left out, too
    while (p < end) {
      const uint8_t byte = *p;
      if (byte < kAscii) {
        const bool is_space = byte == ' ' || (byte >= 9 && byte <= 13) || (byte >= 28 && byte <= 31);
        *to = is_space ? ' ' : byte + ((static_cast<uint8_t>(byte - 'A') < 26) << 5);
        to += !(is_space && after_space);
        after_space = is_space;
        ++p;
        continue;
      }
      const int size = utf8::character_bytes(p, end);
      const std::string* const form = size > 1 ? form_of(code_point(p, size)) : nullptr;
      if (form == nullptr) {
        const int copied = std::max(size, 1);
        to = std::copy(p, p + copied, to);
        after_space = false;
      } else if (*form != " ") {
        to = std::copy(form->begin(), form->end(), to);
        after_space = false;
      } else if (!after_space) {
        *to++ = ' ';
        after_space = true;
      }
      p += std::max(size, 1);
    }
    if (to > out && after_space) --to;
    return static_cast<std::size_t>(to - out);
  }

 private:
  const std::string* form_of(uint32_t code) const {
    const std::size_t at = code - kAscii;
    return at < forms_.size() && forms_[at] != 0 ? &spelled_[forms_[at]] : nullptr;
  }

  static uint32_t code_point(const uint8_t* p, int size) {
    if (size == 2) return (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu);
    if (size == 3) return (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
    return (p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
  }

  std::vector<uint16_t> forms_;           // by code point from 128 on; 0: stays
  std::vector<std::string> spelled_{""};  // number 0 is none
};

// BLAKE2b without a key (RFC 7693), cut by its own parameter to kDigestBytes.
inline void blake2b(const uint8_t* data, std::size_t num_bytes, uint8_t* digest) {
  static constexpr uint64_t kStart[8] = {
      0x6A09E667F3BCC908u, 0xBB67AE8584CAA73Bu, 0x3C6EF372FE94F82Bu, 0xA54FF53A5F1D36F1u,
      0x510E527FADE682D1u, 0x9B05688C2B3E6C1Fu, 0x1F83D9ABFB41BD6Bu, 0x5BE0CD19137E2179u};
  static constexpr uint8_t kOrder[10][16] = {
      {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
      {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
      {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
      {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
      {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
      {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
      {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
      {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
      {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
      {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};
  constexpr std::size_t kBlock = 128;
  constexpr int kRounds = 12;
  const auto load = [](const uint8_t* p) {
    uint64_t word = 0;
    for (int i = 7; i >= 0; --i) word = word << 8 | p[i];
    return word;
  };
  const auto rotate = [](uint64_t x, int count) { return x >> count | x << (64 - count); };

  uint64_t state[8];
  std::copy(kStart, kStart + 8, state);
  state[0] ^= 0x01010000u ^ kDigestBytes;
  uint8_t last[kBlock] = {};
  std::size_t done = 0;
  bool is_last = false;
  while (!is_last) {
    const uint8_t* block = data + done;
    is_last = num_bytes - done <= kBlock;
    if (is_last) {
      if (num_bytes > done) std::memcpy(last, block, num_bytes - done);
      block = last;
      done = num_bytes;
    } else {
      done += kBlock;
    }
    uint64_t m[16], v[16];
    for (int i = 0; i < 16; ++i) m[i] = load(block + 8 * i);
    std::copy(state, state + 8, v);
    std::copy(kStart, kStart + 8, v + 8);
    v[12] ^= done;
    if (is_last) v[14] = ~v[14];
    const auto mix = [&](int a, int b, int c, int d, uint64_t x, uint64_t y) {
      v[a] += v[b] + x;
      v[d] = rotate(v[d] ^ v[a], 32);
      v[c] += v[d];
      v[b] = rotate(v[b] ^ v[c], 24);
      v[a] += v[b] + y;
      v[d] = rotate(v[d] ^ v[a], 16);
      v[c] += v[d];
      v[b] = rotate(v[b] ^ v[c], 63);
    };
    for (int round = 0; round < kRounds; ++round) {
      const uint8_t* const s = kOrder[round % 10];
      mix(0, 4, 8, 12, m[s[0]], m[s[1]]);
      mix(1, 5, 9, 13, m[s[2]], m[s[3]]);
      mix(2, 6, 10, 14, m[s[4]], m[s[5]]);
      mix(3, 7, 11, 15, m[s[6]], m[s[7]]);
      mix(0, 5, 10, 15, m[s[8]], m[s[9]]);
      mix(1, 6, 11, 12, m[s[10]], m[s[11]]);
      mix(2, 7, 8, 13, m[s[12]], m[s[13]]);
      mix(3, 4, 9, 14, m[s[14]], m[s[15]]);
    }
    for (int i = 0; i < 8; ++i) state[i] ^= v[i] ^ v[i + 8];
  }
  for (std::size_t i = 0; i < kDigestBytes; ++i) {
    digest[i] = static_cast<uint8_t>(state[i / 8] >> 8 * (i % 8));
  }
}

// The digest of one text; keeps its memory for the next one.
class Digester {
 public:
  explicit Digester(const Folding& folding) : folding_(folding) {}

  void digest(const uint8_t* text, std::size_t num_bytes, uint8_t* digest) {
    if (kMostGrowth * num_bytes > capacity_ || !folded_) {
      capacity_ = kMostGrowth * num_bytes + 1;
      folded_.reset(new uint8_t[capacity_]);  // not set to zeros: most of it stays unused
    }
    blake2b(folded_.get(), folding_.fold(text, num_bytes, folded_.get()), digest);
  }

 private:
  const Folding& folding_;
  std::unique_ptr<uint8_t[]> folded_;
  std::size_t capacity_ = 0;
};

}  // namespace text_digests
