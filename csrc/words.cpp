#include "words.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "utf8.h"

namespace words {

namespace {

constexpr uint8_t kSeparatorByte = 1;
constexpr uint32_t kArgumentBytes = 40;  // longest {argument} that is left out with its command
constexpr std::size_t kNumberWordSlots = 512;

struct Tables {
  bool plain[256] = {}, letter[256] = {}, digit[256] = {}, chunk[256] = {}, sign[256] = {};
  Tables() {
    for (int c = 0; c < 256; ++c) {
      digit[c] = c >= '0' && c <= '9';
      letter[c] = (c >= 'a' && c <= 'z') || c >= 0x80;
      plain[c] = digit[c] || letter[c] || c == '_';
      sign[c] = c != 0 && std::strchr("+-=/^<>", c) != nullptr;
      chunk[c] = c != ' ' && !(c >= 9 && c <= 13) && !(c >= 28 && c <= 31);
    }
  }
};
const Tables kTables;

inline uint8_t lower(uint8_t c) { return c + ((static_cast<uint8_t>(c - 'A') < 26) << 5); }

uint32_t code_point(const uint8_t* p, int num_bytes) {
  if (num_bytes == 2) return (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu);
  if (num_bytes == 3) return (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
  return (p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
}

// Where forms that are not in the text begin: the mark, then those of numbers.
uint32_t forms_begin(uint32_t num_bytes) { return num_bytes + static_cast<uint32_t>(kPadding); }

void split_runs(const uint8_t* text, uint32_t num_bytes, const bool* inside, Words& words) {
  for (uint32_t p = 0; p < num_bytes;) {
    if (!inside[text[p]]) {
      ++p;
      continue;
    }
    const uint32_t begin = p;
    while (inside[text[p]]) ++p;  // ends at the padding
    words.add(hash_bytes(text + begin, p - begin), begin, p);
  }
}

}  // namespace

Characters::Characters(std::vector<uint8_t> kinds, std::vector<int32_t> offsets, std::string bytes,
                       bool keep_all)
    : kinds_(std::move(kinds)),
      offsets_(std::move(offsets)),
      bytes_(std::move(bytes)),
      keep_all_(keep_all) {
  if (offsets_.size() != kinds_.size() + 1 || offsets_.front() != 0 ||
      !std::is_sorted(offsets_.begin(), offsets_.end()) ||
      static_cast<std::size_t>(offsets_.back()) != bytes_.size()) {
    throw std::invalid_argument("a table of " + std::to_string(kinds_.size()) +
                                " characters needs as many offsets and one more, rising to its " +
                                std::to_string(bytes_.size()) + " bytes");
  }
}

uint32_t Characters::map(const uint8_t* text, std::size_t num_bytes, std::vector<uint8_t>& mapped,
                         std::vector<Origin>* origins) const {
  if (num_bytes > kMaxTextBytes) {
    throw std::invalid_argument("a text has " + std::to_string(num_bytes) + " bytes; " +
                                std::to_string(kMaxTextBytes) + " are possible");
  }
  if (origins != nullptr) origins->clear();
  if (mapped.size() < num_bytes + kPadding) mapped.resize(num_bytes + kPadding);
  const uint8_t *p = text, *const end = text + num_bytes;
  uint32_t at = 0;
  bool alone = false;  // the last character stands alone, and marks of it may follow
  while (p < end) {
    const uint8_t* run = p;
    while (end - run >= 8) {
      uint64_t block;
      std::memcpy(&block, run, 8);
      if (block & 0x8080808080808080u) break;
      run += 8;
    }
    while (run < end && *run < 0x80) ++run;
    const auto room = static_cast<std::size_t>(at) + static_cast<std::size_t>(end - p) + kPadding;
    if (mapped.size() < room + 64) mapped.resize(room + room / 2 + 64);
    uint8_t* out = mapped.data() + at;
    if (alone && run > p) {
      *out++ = kSeparatorByte, alone = false;
      if (origins != nullptr) ++origins->back().mapped_end;
    }
    for (const uint8_t* q = p; q < run; ++q) *out++ = lower(*q);
    at = static_cast<uint32_t>(out - mapped.data());
    p = run;
    if (p == end) break;

    const int size = utf8::character_bytes(p, end);
    const uint32_t code = size > 1 ? code_point(p, size) : 0;
    const uint8_t* bytes = p;
    auto length = static_cast<std::size_t>(size);
    uint8_t kind = kSeparator;
    if (size > 1 && code - 0x80 < kinds_.size()) {
      kind = kinds_[code - 0x80];
      bytes = reinterpret_cast<const uint8_t*>(bytes_.data()) + offsets_[code - 0x80];
      length = static_cast<std::size_t>(offsets_[code - 0x7F] - offsets_[code - 0x80]);
    } else if (size > 1) {
      kind = keep_all_ ? kText : code >= 0x20000 && code < 0x40000 ? kAlone : kSeparator;
    }
    const uint32_t begin = at;
    if (mapped.size() < at + length + 2 + kPadding) mapped.resize(2 * mapped.size() + length);
    out = mapped.data() + at;
    const bool joins = at > 0 && (kTables.digit[out[-1]] || kTables.letter[out[-1]]);
    if (kind == kMark && !joins) kind = kSeparator;
    if (kind != kMark && kind != kIgnored) {
      if (alone || kind == kAlone) *out++ = kSeparatorByte;
      alone = kind == kAlone;
    }
    if (kind == kSeparator) {
      *out++ = kSeparatorByte;
    } else if (kind != kIgnored) {
      out = std::copy(bytes, bytes + length, out);
    }
    at = static_cast<uint32_t>(out - mapped.data());
    const uint8_t* next = p + (size > 1 ? size : 1);
    if (origins != nullptr) {
      origins->push_back({begin, at, static_cast<uint32_t>(p - text),
                          static_cast<uint32_t>(next - text)});
    }
    p = next;
  }
  if (at > 4 * kMaxTextBytes) {
    throw std::invalid_argument("a text of " + std::to_string(num_bytes) + " bytes becomes one of " +
                                std::to_string(at) + " when its characters are mapped");
  }
  const std::size_t with_forms = 3 * std::size_t{at} + 4 * kPadding;
  if (mapped.size() < with_forms) mapped.resize(with_forms);
  std::memset(mapped.data() + at, 0, kPadding);
  return at;
}

Span source_span(const std::vector<Origin>& origins, uint32_t begin, uint32_t end) {
  const auto origin_of = [&](uint32_t position) {
    auto found = std::upper_bound(
        origins.begin(), origins.end(), position,
        [](uint32_t value, const Origin& origin) { return value < origin.mapped_begin; });
    if (found == origins.begin()) return Span{position, position + 1};
    const Origin& origin = *--found;
    if (position < origin.mapped_end) return Span{origin.begin, origin.end};
    const uint32_t source = origin.end + (position - origin.mapped_end);
    return Span{source, source + 1};
  };
  return {origin_of(begin).begin, origin_of(end - 1).end};
}

Splitter::Splitter(Characters letters, Characters chunks,
                   const std::vector<std::pair<std::string, int>>& commands,
                   const std::vector<std::string>& number_words)
    : letters_(std::move(letters)), chunks_(std::move(chunks)), number_words_(kNumberWordSlots) {
  const auto hash_of = [](std::string word) {
    const std::size_t num_bytes = word.size();
    if (num_bytes == 0) throw std::invalid_argument("an empty name in a list of words");
    word.append(8, '\0');
    return hash_bytes(reinterpret_cast<const uint8_t*>(word.data()), num_bytes);
  };
  for (const auto& [name, what] : commands) commands_[hash_of(name)] = static_cast<Command>(what);
  if (number_words.size() > kNumberWordSlots / 4) {
    throw std::invalid_argument(std::to_string(number_words.size()) + " number words; " +
                                std::to_string(kNumberWordSlots / 4) + " are possible");
  }
  for (const std::string& word : number_words) {
    std::size_t slot = hash_of(word) % kNumberWordSlots;
    while (number_words_[slot] != 0) slot = (slot + 1) % kNumberWordSlots;
    number_words_[slot] = hash_of(word);
  }
}

void Splitter::split(Splitting splitting, std::vector<uint8_t>& mapped, uint32_t num_bytes,
                     Words& words) const {
  uint8_t* text = mapped.data();
  const std::size_t most = std::size_t{num_bytes} + 1;
  words.start(text, most, splitting == Splitting::kMath || splitting == Splitting::kNumbers);
  if (splitting == Splitting::kMath) return split_math<true, false>(text, num_bytes, words, words);
  if (splitting == Splitting::kNumbers) {
    return split_math<false, true>(text, num_bytes, words, words);
  }
  if (splitting == Splitting::kPlain) return split_runs(text, num_bytes, kTables.plain, words);
  for (uint32_t p = 0; p < num_bytes;) {
    const uint32_t begin = p;
    while (p < num_bytes && kTables.chunk[text[p]]) ++p;
    if (p > begin) words.add(hash_bytes(text + begin, p - begin), begin, p);
    else ++p;
  }
}

void Splitter::split_both(std::vector<uint8_t>& mapped, uint32_t num_bytes, Words& math,
                          Words& marked) const {
  math.start(mapped.data(), std::size_t{num_bytes} + 1, true);
  marked.start(mapped.data(), std::size_t{num_bytes} + 1, true);
  split_math<true, true>(mapped.data(), num_bytes, math, marked);
}

bool Splitter::is_number_word(uint64_t hash) const {
  for (std::size_t slot = hash % kNumberWordSlots; number_words_[slot] != 0;
       slot = (slot + 1) % kNumberWordSlots) {
    if (number_words_[slot] == hash) return true;
  }
  return false;
}

template <bool kMath, bool kMarked>
void Splitter::split_math(uint8_t* text, uint32_t num_bytes, Words& math, Words& marked) const {
  const bool *const letter = kTables.letter, *const digit = kTables.digit;
  const uint32_t mark_begin = forms_begin(num_bytes);
  uint32_t form = mark_begin;
  text[form++] = kNumberMark;
  const uint64_t mark = hash_bytes(text + mark_begin, 1);
  const auto add = [&](uint32_t begin, uint32_t end, uint32_t form_begin, uint32_t form_end) {
    const uint64_t hash = hash_bytes(text + form_begin, form_end - form_begin);
    if (kMath) math.add(hash, begin, end, form_begin, form_end);
    if (!kMarked) return;
    if (digit[text[form_begin]] || is_number_word(hash)) {
      marked.add(mark, begin, end, mark_begin, mark_begin + 1);
    } else {
      marked.add(hash, begin, end, form_begin, form_end);
    }
  };
  const auto add_as_is = [&](uint32_t begin, uint32_t end) { add(begin, end, begin, end); };
  const auto add_form = [&](uint32_t form_end, uint32_t begin, uint32_t end) {
    add(begin, end, form, form_end);
    form = form_end;
  };
  const auto add_operator = [&](uint32_t begin, uint32_t end) {
    if (kMarked) marked.add(hash_bytes(text + begin, end - begin), begin, end, begin, end);
  };
  const auto separator_bytes = [&](uint32_t p) -> uint32_t {  // of thousands
    if (text[p] == ',') return text[p + 1] == '\\' && text[p + 2] == '!' ? 3 : 1;
    if (text[p] == '{') return text[p + 1] == ',' && text[p + 2] == '}' ? 3 : 0;
    return text[p] == '\\' && text[p + 1] == ',' ? 2 : 0;
  };
  const auto take_number = [&](uint32_t p) {
    const uint32_t begin = p;
    while (digit[text[p]]) ++p;
    const bool has_fraction = text[p] == '.' && digit[text[p + 1]];
    if (!has_fraction && text[begin] != '0' && (p - begin > 3 || separator_bytes(p) == 0)) {
      add_as_is(begin, p);
      return p;
    }
    uint32_t at = form;
    const auto take = [&](uint8_t c) {  // without zeros in front
      if (at == form + 1 && text[form] == '0') at = form;
      text[at++] = c;
    };
    if (p == begin) text[at++] = '0';
    for (uint32_t i = begin; i < p; ++i) take(text[i]);
    if (p - begin >= 1 && p - begin <= 3) {
      for (uint32_t skip; (skip = separator_bytes(p)) != 0;) {
        const uint8_t* group = text + p + skip;
        if (!digit[group[0]] || !digit[group[1]] || !digit[group[2]] || digit[group[3]]) break;
        for (int i = 0; i < 3; ++i) take(group[i]);
        p += skip + 3;
      }
    }
    if (text[p] == '.' && digit[text[p + 1]]) {
      const uint32_t point = at;
      text[at++] = '.';
      for (++p; digit[text[p]]; ++p) text[at++] = text[p];
      while (text[at - 1] == '0') --at;
      if (at == point + 1) at = point;
    }
    add_form(at, begin, p);
    return p;
  };
  const auto skip_spaces = [&](uint32_t p) {
    while (text[p] == ' ') ++p;
    return p;
  };
  for (uint32_t p = 0; p < num_bytes;) {
    const uint8_t c = text[p];
    if (letter[c]) {
      const uint32_t begin = p;
      while (letter[text[p]]) ++p;
      if (text[p] != '\'' || !letter[text[p + 1]]) {
        add_as_is(begin, p);
        continue;
      }
      auto at = static_cast<uint32_t>(std::copy(text + begin, text + p, text + form) - text);
      while (text[p] == '\'' && letter[text[p + 1]]) {
        for (++p; letter[text[p]]; ++p) text[at++] = text[p];
      }
      add_form(at, begin, p);
    } else if (digit[c]) {
      p = take_number(p);
    } else if (c == '.') {
      const bool behind_word = p > 0 && (letter[text[p - 1]] || digit[text[p - 1]]);
      p = digit[text[p + 1]] && !behind_word ? take_number(p) : p + 1;
    } else if (c == '\\') {
      const uint32_t begin = ++p;
      while (text[p] >= 'a' && text[p] <= 'z') ++p;
      if (p == begin) {
        if (p < num_bytes && !letter[text[p]] && !digit[text[p]]) ++p;
        continue;
      }
      const auto found = commands_.find(hash_bytes(text + begin, p - begin));
      if (found == commands_.end()) {
        add_as_is(begin, p);
      } else if (found->second == Command::kDropWithArgument) {
        const uint32_t open = skip_spaces(p);
        if (text[open] != '{') continue;
        uint32_t close = open + 1;
        while (close < num_bytes && close - open <= kArgumentBytes && text[close] != '{' &&
               text[close] != '}') {
          ++close;
        }
        if (text[close] == '}') p = close + 1;
      } else if (found->second == Command::kOperator) {
        add_operator(begin, p);
      } else if (found->second == Command::kFraction) {
        add_operator(begin, p);
        for (int i = 0; i < 2; ++i) {
          const uint32_t next = skip_spaces(p);
          if (!digit[text[next]]) break;
          p = next + 1;
          add_as_is(next, p);
        }
      }
    } else {
      if (kMarked && kTables.sign[c]) {
        const bool hyphen = c == '-' && p > 0 && letter[text[p - 1]] && letter[text[p + 1]];
        if (!hyphen) add_operator(p, p + 1);
      }
      ++p;
    }
  }
}

}  // namespace words
