// The documents of an epoch by position, and what lies before each segment of it.
//
// A split permutation sends its first `num_held_out` positions to validation; training document t
// is split(num_held_out + t), and position p of an epoch is training document epoch(p).
#pragma once

#include <cstdint>
#include <vector>

#include "keyed_permutation.h"

namespace order {

class EpochDocuments {
 public:
  // lengths: int32 at any address (an .idx does not align them). Throws unless
  // 0 <= num_held_out < num_documents.
  EpochDocuments(const char* lengths, int64_t num_documents, uint64_t split_key,
                 uint64_t epoch_key, int64_t num_held_out);

  int64_t num_positions() const { return epoch_.num_items(); }

  // Documents and their tokens at positions first .. first + count - 1, which the caller has
  // checked. Throws when a length is negative.
  void read(int64_t first, int64_t count, int64_t* documents, int64_t* tokens) const;

 private:
  const char* lengths_;
  int64_t num_held_out_;
  KeyedPermutation split_, epoch_;
};

// Rows (tokens, slots) of segments first_segment .. first_segment + num_segments - 1, where a slot
// count is the lengths' sum after rounding each up to `align`.
std::vector<int64_t> segment_totals(const EpochDocuments& epoch, int64_t align,
                                    int64_t segment_documents, int64_t first_segment,
                                    int64_t num_segments);

// What documents first_document .. first_document + count - 1, whose lengths these are, add to the
// totals of every segment: rows (tokens, slots), as many as the epoch has segments. The lengths
// come in the order of the file, and each document's position by the permutations' inverses.
std::vector<int64_t> document_totals(const char* lengths, int64_t first_document, int64_t count,
                                     int64_t num_documents, uint64_t split_key,
                                     uint64_t epoch_key, int64_t num_held_out, int64_t align,
                                     int64_t segment_documents);

}  // namespace order
