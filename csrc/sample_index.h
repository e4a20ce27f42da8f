// Where the samples of one epoch begin when documents are laid end to end and cut every
// sequence_length tokens (`pack: concat`). 64-bit throughout.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace order {

constexpr int64_t kMaxTokens = int64_t{1} << 62;  // products of two such fit 128 bits

inline void check_sequence_length(int64_t sequence_length) {
  if (sequence_length < 1 || sequence_length > (int64_t{1} << 31)) {
    throw std::invalid_argument("sequence_length must be in [1, 2^31], found " +
                                std::to_string(sequence_length));
  }
}

// The sum of all lengths. Throws when one is below 1 or the sum passes 2^62.
inline int64_t checked_total(const int64_t* lengths, int64_t num_documents) {
  int64_t total = 0;
  for (int64_t i = 0; i < num_documents; ++i) {
    if (lengths[i] < 1 || lengths[i] > kMaxTokens - total) {
      throw std::invalid_argument("the document at position " + std::to_string(i) + " has length " +
                                  std::to_string(lengths[i]) + " after " + std::to_string(total) +
                                  " tokens; lengths must be at least 1 and sum to at most 2^62");
    }
    total += lengths[i];
  }
  return total;
}

// Rows (position of the document, offset inside it) of every sample start that lies in this epoch,
// where the epoch begins `stream_offset` tokens after the start of the source's stream.
inline std::vector<int64_t> sample_index(const int64_t* lengths, int64_t num_documents,
                                         int64_t sequence_length, int64_t stream_offset) {
  check_sequence_length(sequence_length);
  if (stream_offset < 0 || stream_offset > kMaxTokens) {
    throw std::invalid_argument("stream_offset must be in [0, 2^62], found " +
                                std::to_string(stream_offset));
  }
  const int64_t total = checked_total(lengths, num_documents);
  const int64_t past = stream_offset % sequence_length;
  int64_t start = past ? sequence_length - past : 0;
  std::vector<int64_t> rows;
  if (start >= total) return rows;
  rows.reserve(2 * ((total - start - 1) / sequence_length + 1));
  int64_t begin = 0;  // first token of the current document, counted from the epoch's start
  for (int64_t position = 0; position < num_documents; ++position) {
    const int64_t end = begin + lengths[position];
    for (; start < end; start += sequence_length) {
      rows.push_back(position);
      rows.push_back(start - begin);
    }
    begin = end;
  }
  return rows;
}

}  // namespace order
