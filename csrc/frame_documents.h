// BOS before and EOD behind every document of flat ids, in the type that the index stores.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

struct Frame {
  static constexpr int64_t kNone = -1;
  int64_t bos, eod;  // ids, or kNone

  int64_t extra() const { return (bos != kNone) + (eod != kNone); }
};

// Sum of `lengths`, each of which becomes a framed length. std::invalid_argument when one is
// negative, when they do not account for `num_tokens`, or when a document would pass 2^31 - 1.
inline void framed_lengths(const int32_t* lengths, std::size_t num_documents, uint64_t num_tokens,
                           const Frame& frame, int32_t* framed) {
  uint64_t sum = 0;
  for (std::size_t i = 0; i < num_documents; ++i) {
    const int64_t longer = int64_t{lengths[i]} + frame.extra();
    if (lengths[i] < 0 || longer > std::numeric_limits<int32_t>::max()) {
      throw std::invalid_argument("lengths[" + std::to_string(i) + "] is " +
                                  std::to_string(lengths[i]) + "; 0 to 2147483645 is possible");
    }
    framed[i] = static_cast<int32_t>(longer);
    sum += static_cast<uint64_t>(lengths[i]);
  }
  if (sum != num_tokens) {
    throw std::invalid_argument("the lengths of " + std::to_string(num_documents) +
                                " documents sum to " + std::to_string(sum) + ", but " +
                                std::to_string(num_tokens) + " tokens were given");
  }
}

// `framed` has room for num_tokens + num_documents * extra. std::invalid_argument for an id that
// `Stored` cannot hold.
template <typename Stored>
void frame_tokens(const int32_t* tokens, const int32_t* lengths, std::size_t num_documents,
                  const Frame& frame, Stored* framed) {
  constexpr int64_t kMost = std::numeric_limits<Stored>::max();
  if (frame.bos > kMost || frame.eod > kMost) {
    throw std::invalid_argument("BOS " + std::to_string(frame.bos) + " or EOD " +
                                std::to_string(frame.eod) + " is above " + std::to_string(kMost));
  }
  const int32_t* from = tokens;
  for (std::size_t i = 0; i < num_documents; ++i) {
    if (frame.bos != Frame::kNone) *framed++ = static_cast<Stored>(frame.bos);
    if constexpr (sizeof(Stored) == sizeof(int32_t)) {
      if (lengths[i] > 0) std::memcpy(framed, from, lengths[i] * sizeof(int32_t));
    } else {
      int32_t low = 0, high = 0;
      for (int32_t t = 0; t < lengths[i]; ++t) {
        low = std::min(low, from[t]);
        high = std::max(high, from[t]);
        framed[t] = static_cast<Stored>(from[t]);
      }
      if (low < 0 || high > kMost) {
        throw std::invalid_argument("document " + std::to_string(i) + " holds the ids " +
                                    std::to_string(low) + " to " + std::to_string(high) +
                                    "; 0 to " + std::to_string(kMost) + " can be stored");
      }
    }
    framed += lengths[i];
    from += lengths[i];
    if (frame.eod != Frame::kNone) *framed++ = static_cast<Stored>(frame.eod);
  }
}

// Roles likewise, one byte a token: BOS takes `opening`, EOD the role of the token before it, or
// `lonely` where the document has none.
inline void frame_roles(const uint8_t* roles, const int32_t* lengths, std::size_t num_documents,
                        const Frame& frame, uint8_t opening, uint8_t lonely, uint8_t* framed) {
  for (std::size_t i = 0; i < num_documents; ++i) {
    if (frame.bos != Frame::kNone) *framed++ = opening;
    if (lengths[i] > 0) std::memcpy(framed, roles, lengths[i]);
    framed += lengths[i];
    roles += lengths[i];
    if (frame.eod != Frame::kNone) *framed++ = lengths[i] > 0 ? roles[-1] : lonely;
  }
}
