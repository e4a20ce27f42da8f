// Samples laid out as rows of a batch: tokens, labels, which labels count, who may see whom.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "limits.h"

namespace order {

// One corpus in memory. tokens: numbers of type Token at any address; roles: one byte a token or
// null; role_counts: 256 bytes, whether a role's tokens are labels that count.
struct Corpus {
  const char* tokens;
  const uint8_t* roles;
  const uint8_t* role_counts;
};

// Pieces are rows (first token in the corpus, tokens, padding); row b holds pieces
// starts[b] .. starts[b + 1] - 1.
struct RowPieces {
  const int64_t* pieces;
  int64_t num_pieces;
  const int64_t* starts;
  int64_t num_rows;
};

struct RowLayout {
  int64_t sequence_length, pad_id;
  bool attend_across;
};

// One row of every array of a batch, sequence_length numbers each.
struct Row {
  int64_t *tokens, *labels;
  float* loss_mask;
  int32_t* document_ids;
  int64_t* position_ids;
};

inline void check_row_pieces(const RowPieces& rows, int64_t num_tokens, int64_t sequence_length) {
  check_sequence_length(sequence_length);
  if (rows.starts[0] != 0 || rows.starts[rows.num_rows] != rows.num_pieces) {
    throw std::invalid_argument("row_starts must go from 0 to the " +
                                std::to_string(rows.num_pieces) + " pieces, found " +
                                std::to_string(rows.starts[0]) + " to " +
                                std::to_string(rows.starts[rows.num_rows]));
  }
  for (int64_t b = 0; b < rows.num_rows; ++b) {
    if (rows.starts[b + 1] < rows.starts[b] || rows.starts[b + 1] > rows.num_pieces) {
      throw std::invalid_argument("row_starts fall or pass the end behind row " +
                                  std::to_string(b));
    }
    int64_t left = sequence_length + 1;
    for (int64_t p = rows.starts[b]; p < rows.starts[b + 1]; ++p) {
      const int64_t *piece = rows.pieces + 3 * p, first = piece[0], tokens = piece[1];
      if (first < 0 || tokens < 0 || tokens > num_tokens || first > num_tokens - tokens) {
        throw std::invalid_argument("piece " + std::to_string(p) + " asks for " +
                                    std::to_string(tokens) + " tokens from " +
                                    std::to_string(first) + " on, the corpus has " +
                                    std::to_string(num_tokens));
      }
      if (piece[2] < 0 || tokens > left) {
        throw std::invalid_argument("piece " + std::to_string(p) + " with " +
                                    std::to_string(tokens) + " tokens and " +
                                    std::to_string(piece[2]) + " of padding meets " +
                                    std::to_string(left) + " free slots of " +
                                    std::to_string(sequence_length + 1));
      }
      left -= tokens;
      left -= std::min(piece[2], left);
    }
  }
}

// Lays the pieces out on sequence_length + 1 slots, the last of which is only a label; what they
// leave is padding. A run of one piece's tokens or of padding has an id of its own, and its
// positions begin at 0; with attend_across all tokens have id 0, padding its run's number + 1, and
// positions count through. A label counts where its role does and where it follows a token with
// the same id.
template <typename Token>
class RowWriter {
 public:
  RowWriter(const Corpus& corpus, const RowLayout& layout) : corpus_(corpus), layout_(layout) {}

  // The pieces are those of `check_row_pieces`.
  void write(const int64_t* pieces, int64_t num_pieces, const Row& row) {
    at_ = run_ = 0;
    after_token_ = false;
    for (int64_t p = 0; p < num_pieces; ++p) {
      const int64_t* piece = pieces + 3 * p;
      if (piece[1] > 0) write_tokens(piece[0], piece[1], row);
      write_padding(std::min(piece[2], layout_.sequence_length + 1 - at_), row);
    }
    write_padding(layout_.sequence_length + 1 - at_, row);
  }

 private:
  void write_tokens(int64_t first, int64_t count, const Row& row) {
    const char* source = corpus_.tokens + first * static_cast<int64_t>(sizeof(Token));
    const int64_t inputs = std::min(count, layout_.sequence_length - at_);
    const int64_t skipped = at_ == 0 ? 1 : 0;  // slot 0 is nobody's label
    // Labels come from the tokens as stored, not from row.tokens: these are four times the bytes.
    copy(source, inputs, row.tokens + at_);
    copy(source + skipped * sizeof(Token), count - skipped, row.labels + (at_ + skipped - 1));
    float* mask = row.loss_mask + at_ + skipped - 1;  // the label in slot s stands at s - 1
    if (corpus_.roles == nullptr) {
      std::fill_n(mask, count - skipped, 1.0f);
    } else {
      const uint8_t* roles = corpus_.roles + first + skipped;
      for (int64_t i = 0; i < count - skipped; ++i) {
        mask[i] = corpus_.role_counts[roles[i]] ? 1.0f : 0.0f;
      }
    }
    if (!skipped && !(layout_.attend_across && after_token_)) mask[0] = 0.0f;
    number(inputs, layout_.attend_across ? 0 : run_, row);
    after_token_ = true;
    at_ += count;
    ++run_;
  }

  void write_padding(int64_t count, const Row& row) {
    if (count == 0) return;
    const int64_t inputs = std::min(count, layout_.sequence_length - at_);
    const int64_t skipped = at_ == 0 ? 1 : 0;
    std::fill_n(row.tokens + at_, inputs, layout_.pad_id);
    std::fill_n(row.labels + at_ + skipped - 1, count - skipped, layout_.pad_id);
    std::fill_n(row.loss_mask + at_ + skipped - 1, count - skipped, 0.0f);
    number(inputs, layout_.attend_across ? run_ + 1 : run_, row);
    after_token_ = false;
    at_ += count;
    ++run_;
  }

  void number(int64_t inputs, int64_t id, const Row& row) const {
    std::fill_n(row.document_ids + at_, inputs, static_cast<int32_t>(id));
    const int64_t from = layout_.attend_across ? at_ : 0;
    std::iota(row.position_ids + at_, row.position_ids + (at_ + inputs), from);
  }

  static void copy(const char* source, int64_t count, int64_t* target) {
    for (int64_t i = 0; i < count; ++i) {
      Token token;
      std::memcpy(&token, source + i * sizeof(Token), sizeof(Token));
      target[i] = token;
    }
  }

  Corpus corpus_;
  RowLayout layout_;
  int64_t at_ = 0, run_ = 0;  // the next slot, the next run of tokens or of padding
  bool after_token_ = false;  // slot at_ - 1 holds a token
};

}  // namespace order
