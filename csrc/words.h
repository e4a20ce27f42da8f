// Texts as words that can be compared: letters folded, numbers as units, LaTeX's layout left out.
//
// Two steps. `Characters` maps every character to what it is compared as; then a mapped text is
// split, by plain bytes, in one of four ways. Nothing is trusted about the text: a byte that is no
// UTF-8 separates words, and every look-ahead ends in the zeros behind the mapped text.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <unordered_map>
#include <vector>

namespace words {

constexpr uint32_t kMaxTextBytes = 1u << 30;  // positions are 32 bits wide, with room for mapping
constexpr std::size_t kPadding = 16;          // zeros behind a mapped text

enum class Splitting : uint8_t {
  kPlain,    // runs of letters, digits and '_'; ideographs one by one
  kMath,     // runs of letters; numbers; LaTeX commands that mean something
  kNumbers,  // kMath with one mark for every run of numbers
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

  // `origins` may be null. Returns the mapped text's bytes without the padding.
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

// The words of one mapped text. Word i is [begins[i], ends[i]) there; what is compared is its form.
struct Words {
  std::vector<uint64_t> hashes;
  std::vector<uint32_t> begins, ends;
  std::vector<uint32_t> form_begins;  // one more than words; empty where forms are the mapped bytes
  std::vector<uint8_t> forms;
  const uint8_t* mapped = nullptr;

  std::size_t size() const { return hashes.size(); }
  const uint8_t* form(std::size_t i) const {
    return form_begins.empty() ? mapped + begins[i] : forms.data() + form_begins[i];
  }
  std::size_t form_bytes(std::size_t i) const {
    return form_begins.empty() ? ends[i] - begins[i] : form_begins[i + 1] - form_begins[i];
  }
  void clear(const uint8_t* text) {
    hashes.clear(), begins.clear(), ends.clear(), form_begins.clear();
    mapped = text;
  }
};

inline bool equal(const Words& a, std::size_t i, const Words& b, std::size_t j) {
  return a.hashes[i] == b.hashes[j] && a.form_bytes(i) == b.form_bytes(j) &&
         std::memcmp(a.form(i), b.form(j), a.form_bytes(i)) == 0;
}

// What is done with a LaTeX command in kMath; one that is not listed is a word.
enum class Command : uint8_t { kDrop = 1, kDropWithArgument, kFraction };

class Splitter {
 public:
  Splitter(Characters letters, Characters chunks,
           const std::vector<std::pair<std::string, int>>& commands,
           const std::vector<std::string>& number_words);

  const Characters& characters(Splitting splitting) const {
    return splitting == Splitting::kChunks ? chunks_ : letters_;
  }
  // `mapped` by `characters(splitting)`, with its padding; kNumbers wants the words of kMath.
  void split(Splitting splitting, const std::vector<uint8_t>& mapped, uint32_t num_bytes,
             Words& words) const;
  void mark_numbers(const Words& math, Words& words) const;

 private:
  void split_math(const uint8_t* text, uint32_t num_bytes, Words& words) const;

  Characters letters_, chunks_;
  std::unordered_map<uint64_t, Command> commands_;
  std::vector<uint64_t> number_words_;  // a table of hashes; 0 is empty
};

}  // namespace words
