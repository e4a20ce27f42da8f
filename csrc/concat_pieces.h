// Samples of a stream whose documents stand end to end: which pieces of documents each holds.
//
// A stream is epochs of segments of `segment_documents` positions (csrc/epoch.h); its first epoch
// may begin at a later position. A row is a segment, counted from the stream's beginning. Documents
// take their tokens rounded up to `align` slots, sample j the slots j * S to j * S + S, of which the
// last is only a label.
#pragma once

#include <cstdint>
#include <vector>

namespace order {

struct ConcatStream {
  const char* lengths;  // int32 of every document, at any address
  int64_t num_documents;
  uint64_t split_key;
  int64_t num_held_out;
  const uint64_t* epoch_keys;  // of the stream's first epoch and the following ones
  int64_t num_epochs, first_epoch;
  int64_t start_position, segment_documents, align;
  const int64_t* slots_before;  // of each row, and behind the last
  int64_t num_rows;
};

// Rows (document, start, tokens, padding, epoch); sample i has starts[i] .. starts[i + 1] - 1.
struct Pieces {
  std::vector<int64_t> rows, starts;
};

// Throws for a stream that contradicts itself and for samples that begin outside its rows. The
// pieces end with the rows: the last sample may be short.
Pieces concat_pieces(const ConcatStream& stream, int64_t sequence_length, const int64_t* samples,
                     int64_t num_samples);

}  // namespace order
