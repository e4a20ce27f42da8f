// Texts as words that can be compared: letters folded, numbers as units, LaTeX's layout left out.
//
// Two steps. `Characters` maps every character to what it is compared as; then a mapped text is
// split, by plain bytes, in one of four ways. Nothing is trusted about the text: a byte that is no
// UTF-8 separates words, and every look-ahead ends in the zeros behind the mapped text.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace words {

constexpr uint32_t kMaxTextBytes = 1u << 28;  // positions have 32 bits, and mapping lengthens
constexpr std::size_t kPadding = 16;          // zeros behind a mapped text
constexpr uint8_t kNumberMark = '#';

enum class Splitting : uint8_t {
  kPlain,    // runs of letters, digits and '_'; ideographs one by one
  kMath,     // runs of letters; numbers; LaTeX commands that mean something
  kNumbers,  // kMath with operators, and a mark in the place of every number
  kChunks,   // runs of anything but white space
};

// Where a character of the source lies in the mapped text; one for each that is not ASCII.
struct Origin {
  uint32_t mapped_begin, mapped_end, begin, end;
};

class Characters {
 public:
  enum Kind : uint8_t { kSeparator, kText, kAlone, kMark, kIgnored };

  // kinds: of the code points from 128 on; what each becomes is bytes[offsets[i], offsets[i + 1]).
  // keep_all: code points behind the table stay as they are; else only ideographs do.
  Characters(std::vector<uint8_t> kinds, std::vector<int32_t> offsets, std::string bytes,
             bool keep_all);

  // `origins` may be null. Returns the mapped text's bytes; behind them are `kPadding` zeros and room
  // for other forms of all words.
  uint32_t map(const uint8_t* text, std::size_t num_bytes, std::vector<uint8_t>& mapped,
               std::vector<Origin>* origins) const;

 private:
  std::vector<uint8_t> kinds_;
  std::vector<int32_t> offsets_;
  std::string bytes_;
  bool keep_all_;
};

// The source's bytes that a mapped word [begin, end) came from.
struct Span {
  uint32_t begin, end;
};
Span source_span(const std::vector<Origin>& origins, uint32_t begin, uint32_t end);

inline uint64_t fold_multiply(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// Reads up to 7 bytes past the end.
inline uint64_t hash_bytes(const uint8_t* p, std::size_t num_bytes) {
  uint64_t hash = 0x9E3779B97F4A7C15u ^ num_bytes;
  for (; num_bytes > 8; p += 8, num_bytes -= 8) {
    uint64_t block;
    std::memcpy(&block, p, 8);
    hash = fold_multiply(hash ^ block, 0xA0761D6478BD642Fu);
  }
  uint64_t block;
  std::memcpy(&block, p, 8);
  block &= ~uint64_t{0} >> (64 - 8 * num_bytes);
  return fold_multiply(fold_multiply(hash ^ block, 0xA0761D6478BD642Fu), 0xE7037ED1A0B428DBu);
}

// The words of one mapped text. Word i is [begins[i], ends[i]) there; what is compared, its form, is
// [form_begins[i], form_ends[i]) of the same buffer, which has room for other forms behind the text.
class Words {
 public:
  std::size_t size() const { return size_; }
  const uint64_t* hashes() const { return hashes_.get(); }
  uint32_t begin(std::size_t i) const { return begins_[i]; }
  uint32_t end(std::size_t i) const { return ends_[i]; }
  const uint8_t* form(std::size_t i) const { return buffer_ + form_begins_[i]; }
  std::size_t form_bytes(std::size_t i) const { return form_ends_[i] - form_begins_[i]; }

  // Forgets all words; there is room for `capacity` of them, forms apart from words or not.
  void start(const uint8_t* buffer, std::size_t capacity, bool own_forms) {
    size_ = 0;
    buffer_ = buffer;
    if (capacity > capacity_) {
      capacity_ = capacity;
      for (auto* numbers : {&begins_, &ends_, &own_begins_, &own_ends_}) {
        numbers->reset(new uint32_t[capacity]);  // not set to zeros: most of it stays unused
      }
      hashes_.reset(new uint64_t[capacity]);
    }
    form_begins_ = own_forms ? own_begins_.get() : begins_.get();
    form_ends_ = own_forms ? own_ends_.get() : ends_.get();
  }
  void add(uint64_t hash, uint32_t begin, uint32_t end) {
    hashes_[size_] = hash;
    begins_[size_] = begin;
    ends_[size_++] = end;
  }
  void add(uint64_t hash, uint32_t begin, uint32_t end, uint32_t form_begin, uint32_t form_end) {
    own_begins_[size_] = form_begin;
    own_ends_[size_] = form_end;
    add(hash, begin, end);
  }
  // A copy of some of them, with room for no more.
  Words part(std::size_t first, std::size_t last) const {
    Words copy;
    copy.start(buffer_, last - first, true);
    for (std::size_t i = first; i < last; ++i) {
      copy.add(hashes_[i], begins_[i], ends_[i], form_begins_[i], form_ends_[i]);
    }
    return copy;
  }

 private:
  std::size_t size_ = 0, capacity_ = 0;
  const uint8_t* buffer_ = nullptr;
  const uint32_t *form_begins_ = nullptr, *form_ends_ = nullptr;
  std::unique_ptr<uint64_t[]> hashes_;
  std::unique_ptr<uint32_t[]> begins_, ends_, own_begins_, own_ends_;
};

inline bool equal(const Words& a, std::size_t i, const Words& b, std::size_t j) {
  return a.hashes()[i] == b.hashes()[j] && a.form_bytes(i) == b.form_bytes(j) &&
         std::memcmp(a.form(i), b.form(j), a.form_bytes(i)) == 0;
}

// What is done with a LaTeX command; one that is not listed is a word. Operators, fractions among
// them, are words in kNumbers alone.
enum class Command : uint8_t { kDrop = 1, kDropWithArgument, kFraction, kOperator };

class Splitter {
 public:
  Splitter(Characters letters, Characters chunks,
           const std::vector<std::pair<std::string, int>>& commands,
           const std::vector<std::string>& number_words);

  const Characters& characters(Splitting splitting) const {
    return splitting == Splitting::kChunks ? chunks_ : letters_;
  }
  // `mapped` by `characters(splitting)`; the words point into it.
  void split(Splitting splitting, std::vector<uint8_t>& mapped, uint32_t num_bytes,
             Words& words) const;
  // kMath and kNumbers in one pass.
  void split_both(std::vector<uint8_t>& mapped, uint32_t num_bytes, Words& math,
                  Words& marked) const;

 private:
  template <bool kMath, bool kMarked>
  void split_math(uint8_t* text, uint32_t num_bytes, Words& math, Words& marked) const;
  bool is_number_word(uint64_t hash) const;

  Characters letters_, chunks_;
  std::unordered_map<uint64_t, Command> commands_;
  std::vector<uint64_t> number_words_;  // a table of hashes; 0 is empty
};

}  // namespace words
