// Rows of benchmarks looked for in texts, under several rules at once.
//
// Every rule has seeds: runs of words of a row that a text must share before anything is compared.
// Their hashes are looked up in a bitmap, then in a table; every seed is compared word by word,
// byte by byte, before it counts.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "texts.h"
#include "words.h"

namespace row_search {

using words::Splitting;
using words::Words;

enum class Need : uint8_t {
  kSeed,   // a run of `seed_words` words of the row is enough
  kShare,  // a seed, and more than `share` of the row's words in order around it
  kWhole,  // all words of the row in a run
};

// Rows of fewer than `seed_words` words are looked for whole, down to `least_words`.
struct Rule {
  Splitting splitting;
  uint32_t seed_words, least_words;
  Need need;
  double share;
  bool whole_texts;  // rows below least_words count where they are all of a text
};

enum class Searched : uint8_t { kNoWords, kYes, kTooShort, kAsWholeText, kNoNumbers };

struct Hit {
  int64_t text;
  uint32_t rule, row;
  uint32_t num_words, row_words;  // found in order, and all of the row
  words::Span span, row_span;     // bytes of the text and of the row
};

// Where in the row a seed begins.
struct Place {
  uint32_t row, word;
};

// Runs of `length` words by a hash of theirs. Equal hashes may be different runs.
class Seeds {
 public:
  explicit Seeds(uint32_t length);
  uint32_t length() const { return length_; }
  bool empty() const { return places_.empty(); }
  void add(const Words& row, uint32_t number, uint32_t first_word);
  void build();

  // found(first word in the text, place) for every run whose hash is that of a seed.
  template <typename Found>
  void scan(const Words& text, const Found& found) const;

 private:
  struct Slot {
    uint64_t key;
    uint32_t first, count;  // count 0: empty
  };
  template <typename Found>
  void look_up(uint64_t key, std::size_t at, const Found& found) const;
  uint32_t length_;
  uint64_t leaving_ = 1;  // kBase to the power of length_
  std::vector<std::pair<uint64_t, Place>> pending_;
  std::vector<Place> places_;
  std::vector<uint64_t> bitmap_;
  std::vector<Slot> slots_;
  int bitmap_shift_ = 0, slot_shift_ = 0;
};

// At which words of `words` each word stands, as bits; backwards: counted from the last.
class WordPlaces {
 public:
  WordPlaces(const Words& words, bool backwards);
  std::size_t num_blocks() const { return num_blocks_; }
  // The bits of the word that is equal to other's `word`, or null.
  const uint64_t* find(const Words& words, const Words& other, std::size_t word) const;

 private:
  struct Slot {
    uint64_t hash;
    uint32_t word, bits;  // bits 0: empty
  };
  std::size_t num_blocks_;
  int shift_;
  std::vector<Slot> slots_;
  std::vector<uint64_t> bits_;
};

class Searcher {
 public:
  Searcher(const words::Splitter& splitter, std::vector<Rule> rules);

  // Before `build`. Rows are numbered from 0 within a rule.
  Searched add_row(uint32_t rule, const uint8_t* text, std::size_t num_bytes);
  void build();
  // By text, rule, row; of every text, rule and row the best hit.
  std::vector<Hit> search(const texts::Flat& flat, int num_threads) const;

 private:
  struct Row {
    Words words;
    std::vector<uint8_t> mapped;
    std::vector<words::Origin> origins;
    std::unique_ptr<WordPlaces> places;  // of kShare
  };
  struct RuleRows {
    Rule rule;
    std::vector<Row> rows;
    Seeds seeds, short_seeds;
    std::unordered_map<uint64_t, std::vector<uint32_t>> whole_texts;
  };
  struct Scratch;
  struct Found;

  void search_text(const uint8_t* text, std::size_t num_bytes, int64_t number, Scratch& scratch,
                   std::vector<Hit>& hits) const;
  void search_rule(const RuleRows& rows, const Words& text, Scratch& scratch) const;
  void take_seed(const RuleRows& rows, const Words& text, uint32_t at, Place place, bool whole,
                 Scratch& scratch) const;

  const words::Splitter& splitter_;
  std::vector<RuleRows> rules_;
  bool uses_[4] = {};  // by splitting
  bool built_ = false;
};

}  // namespace row_search
