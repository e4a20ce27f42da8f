// Flat texts: joining parts into texts, and who speaks at each of their tokens.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "utf8.h"

namespace texts {

// Strings one after another: string i is text[offsets[i], offsets[i + 1]).
struct Flat {
  const uint8_t* text;
  int64_t num_bytes;
  const int64_t* offsets;
  int64_t count;

  // Offsets must rise from 0 or more to num_bytes at most.
  void check(const std::string& what) const {
    int64_t before = 0;
    for (int64_t i = 0; i <= count; ++i) {
      if (offsets[i] < before || offsets[i] > num_bytes) {
        throw std::invalid_argument(what + ": offsets[" + std::to_string(i) + "] is " +
                                    std::to_string(offsets[i]) + ", " + std::to_string(before) +
                                    " to " + std::to_string(num_bytes) + " is possible");
      }
      before = offsets[i];
    }
  }
};

// Part of every text: text i takes string choice[i] of `pool`, or nothing where that is -1.
struct Part {
  Flat pool;
  const int64_t* choice;
};

// Where each text begins (num_texts + 1) and, for each text, where each part ends inside it.
inline void measure(const std::vector<Part>& parts, int64_t num_texts, int64_t* offsets,
                    int64_t* ends) {
  for (std::size_t k = 0; k < parts.size(); ++k) {
    const Part& part = parts[k];
    part.pool.check("part " + std::to_string(k));
    for (int64_t i = 0; i < num_texts; ++i) {
      if (part.choice[i] < -1 || part.choice[i] >= part.pool.count) {
        throw std::invalid_argument("part " + std::to_string(k) + " has " +
                                    std::to_string(part.pool.count) + " strings, text " +
                                    std::to_string(i) + " asks for number " +
                                    std::to_string(part.choice[i]));
      }
    }
  }
  offsets[0] = 0;
  for (int64_t i = 0; i < num_texts; ++i) {
    int64_t num_bytes = 0;
    for (const Part& part : parts) {
      const int64_t s = part.choice[i];
      if (s >= 0) num_bytes += part.pool.offsets[s + 1] - part.pool.offsets[s];
      *ends++ = num_bytes;
    }
    offsets[i + 1] = offsets[i] + num_bytes;
  }
}

// After `measure`; `text` has room for offsets[num_texts].
inline void join(const std::vector<Part>& parts, int64_t num_texts, uint8_t* text) {
  for (int64_t i = 0; i < num_texts; ++i) {
    for (const Part& part : parts) {
      const int64_t s = part.choice[i];
      if (s < 0) continue;
      const int64_t begin = part.pool.offsets[s];
      const auto num_bytes = static_cast<std::size_t>(part.pool.offsets[s + 1] - begin);
      if (num_bytes != 0) std::memcpy(text, part.pool.text + begin, num_bytes);
      text += num_bytes;
    }
  }
}

// Segments of all texts, one text after another: those of text i are firsts[i] to firsts[i + 1].
// A segment ends at a byte inside its text and has one role.
struct Segments {
  const int64_t* firsts;
  const int64_t* ends;
  const uint8_t* roles;
  int64_t count;
};

// Each token's role: that of the segment which holds its last byte. token_ends: byte inside the
// text where each token ends; what ends at byte 0 belongs to the first byte's segment.
inline void token_roles(const int64_t* token_ends, int64_t num_tokens, const int32_t* lengths,
                        int64_t num_texts, const Segments& segments, uint8_t* roles) {
  int64_t token = 0;
  for (int64_t i = 0; i < num_texts; ++i) {
    int64_t segment = segments.firsts[i];
    const int64_t last = segments.firsts[i + 1] - 1;
    if (lengths[i] < 0 || lengths[i] > num_tokens - token || segment < 0 || last < segment ||
        last >= segments.count) {
      throw std::invalid_argument(
          "text " + std::to_string(i) + " has " + std::to_string(lengths[i]) + " tokens of " +
          std::to_string(num_tokens - token) + " left, and the segments " +
          std::to_string(segment) + " to " + std::to_string(last) + " of " +
          std::to_string(segments.count));
    }
    for (const int64_t end = token + lengths[i]; token < end; ++token) {
      const int64_t byte = token_ends[token] > 0 ? token_ends[token] : 1;
      while (segment < last && segments.ends[segment] < byte) ++segment;
      roles[token] = segments.roles[segment];
    }
  }
  if (token != num_tokens) {
    throw std::invalid_argument("the lengths sum to " + std::to_string(token) + ", but " +
                                std::to_string(num_tokens) + " tokens were given");
  }
}

inline std::vector<int64_t> find_invalid_utf8(const Flat& strings) {
  strings.check("the texts");
  std::vector<int64_t> found;
  for (int64_t i = 0; i < strings.count; ++i) {
    const uint8_t* text = strings.text;
    if (!utf8::is_valid(text + strings.offsets[i], text + strings.offsets[i + 1])) {
      found.push_back(i);
    }
  }
  return found;
}

// Some of the characters from U+0800 on, which have three bytes or four, and the texts that hold
// one of them.
class CharacterSet {
 public:
  // ranges: first and last code point of each, `count` of them.
  CharacterSet(const int64_t* ranges, int64_t count) : is_in_(kCodePoints), begins_(1 << 16) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t first = ranges[2 * i], last = ranges[2 * i + 1];
      if (first < kFirst || last < first || last >= kCodePoints) {
        throw std::invalid_argument("characters " + std::to_string(first) + " to " +
                                    std::to_string(last) + ", " + std::to_string(kFirst) + " to " +
                                    std::to_string(kCodePoints - 1) + " is possible");
      }
      for (int64_t code = first; code <= last; ++code) {
        is_in_[code] = true;
        begins_[code < 0x10000 ? (0xE0 | code >> 12) << 8 | (0x80 | (code >> 6 & 0x3F))
                               : (0xF0 | code >> 18) << 8 | (0x80 | (code >> 12 & 0x3F))] = true;
      }
    }
  }

  // Numbers of the texts; of what is no UTF-8 it may say either.
  std::vector<int64_t> texts_with(const Flat& strings) const {
    strings.check("the texts");
    std::vector<int64_t> found;
    for (int64_t i = 0; i < strings.count; ++i) {
      if (is_held(strings.text + strings.offsets[i], strings.text + strings.offsets[i + 1])) {
        found.push_back(i);
      }
    }
    return found;
  }

 private:
  static constexpr int64_t kFirst = 0x800, kCodePoints = 0x110000, kTogether = 64;
  static constexpr uint8_t kFirstLead = 0xE0;

  bool is_held(const uint8_t* at, const uint8_t* end) const {
    for (; end - at >= kTogether; at += kTogether) {
      uint8_t most = 0;
      for (int64_t k = 0; k < kTogether; ++k) most = std::max(most, at[k]);
      if (most >= kFirstLead && begins_in(at, at + kTogether, end)) return true;
    }
    return begins_in(at, end, end);
  }

  bool begins_in(const uint8_t* at, const uint8_t* stop, const uint8_t* end) const {
    for (; at < stop; ++at) {
      if (*at < kFirstLead || end - at < 3 || !begins_[at[0] << 8 | at[1]]) continue;
      int64_t code = (at[0] & 0x0F) << 12 | (at[1] & 0x3F) << 6 | (at[2] & 0x3F);
      if (at[0] >= 0xF0) {
        if (end - at < 4) continue;
        code = (at[0] & 0x07) << 18 | (at[1] & 0x3F) << 12 | (at[2] & 0x3F) << 6 | (at[3] & 0x3F);
      }
      if (code < kCodePoints && is_in_[code]) return true;
    }
    return false;
  }

  std::vector<bool> is_in_;      // by code point
  std::vector<uint8_t> begins_;  // by two bytes: does one of them begin so
};

}  // namespace texts
