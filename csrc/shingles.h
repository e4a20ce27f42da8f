// Texts as sets of runs of words: MinHash signatures cut into bands, and the Jaccard index of pairs.
#pragma once

#include <cstdint>
#include <vector>

#include "texts.h"
#include "words.h"

namespace shingles {

// What a text of fewer words than a shingle has is one shingle of all of them.
class Hasher {
 public:
  // num_bands x band_rows permutations, drawn from `seed`.
  Hasher(const words::Splitter& splitter, uint32_t shingle_words, uint32_t num_bands,
         uint32_t band_rows, uint64_t seed);

  uint32_t num_bands() const { return num_bands_; }
  // bands: [texts, num_bands], equal where all minima of a band are; num_words: [texts].
  void bands(const texts::Flat& flat, int num_threads, uint64_t* bands, int64_t* num_words) const;
  // |A and B| / |A or B| of the shingle sets of texts first[i] and second[i]; of two empty ones 0.
  void jaccard(const texts::Flat& flat, const int64_t* first, const int64_t* second, int64_t count,
               int num_threads, double* index) const;

 private:
  // `words` and `mapped` are scratch; returns how many words there are.
  std::size_t shingles_of(const uint8_t* text, std::size_t num_bytes, std::vector<uint8_t>& mapped,
                          words::Words& words, std::vector<uint64_t>& found) const;

  const words::Splitter& splitter_;
  uint32_t shingle_words_, num_bands_, band_rows_;
  std::vector<uint32_t> factors_, terms_;
};

}  // namespace shingles
