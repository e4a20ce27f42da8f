// Best-fit packing of whole documents into sequences, with a bounded window of open bins
// (`pack: whole`). A document is cut only when it is longer than the sequence: into pieces of
// sequence_length and a tail, which is packed like a document.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace order {

constexpr int64_t kMostOpenBins = 64;

struct Packs {
  std::unique_ptr<int64_t[]> pieces;  // rows (position, start inside the document, length)
  int64_t num_pieces = 0;
  std::vector<int64_t> starts;  // pack p holds the pieces starts[p] .. starts[p + 1] - 1
};

// Throws unless lengths are at least 1 and sum to at most 2^62, align divides sequence_length and
// window is in [1, kMostOpenBins].
Packs pack_index(const int64_t* lengths, int64_t num_documents, int64_t sequence_length,
                 int64_t align, int64_t window);

}  // namespace order
