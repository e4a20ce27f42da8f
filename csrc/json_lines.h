// JSON Lines to columns of UTF-8, strictly, without recursion, padding or trust in the input.
//
// A line is what RFC 8259 allows plus NaN, Infinity and -Infinity: what Python's json.loads takes.
// Every byte is looked at once; the values of the wanted keys are unescaped while they are checked.
#pragma once

#include <algorithm>
#include <bitset>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "utf8.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace json_lines {

constexpr int kMaxDepth = 128;

// What a row has under a key. The order is fixed in native/json_lines.py.
enum Kind : uint8_t {
  kAbsent,
  kString,
  kNulString,  // a string with \u0000 in it
  kHalfPair,   // a string with half a surrogate pair, which no UTF-8 can say: kept without bytes
  kNull,
  kBool,
  kNumber,
  kArray,
  kObject,
};

// One key's values, one after another: strings unescaped, anything else as the JSON that was there.
// Address space for a whole block is asked for with the first value; memory is taken only as far as
// it is filled.
class Column {
 public:
  explicit Column(std::size_t capacity) : capacity_(std::max<std::size_t>(capacity, 1)) {}

  // A value's bytes go to out(); it replaces what the row had, since the last duplicate wins.
  uint8_t* out() {
    if (!text_) text_.reset(static_cast<uint8_t*>(std::malloc(capacity_)));
    if (!text_) throw std::bad_alloc();
    return text_.get() + offsets.back();
  }
  void set(Kind kind, const uint8_t* end) {
    kind_ = kind;
    num_bytes_ = end - out();
  }

  void keep_row() {
    offsets.push_back(offsets.back() + num_bytes_);
    kinds.push_back(kind_);
    drop_row();
  }
  void drop_row() {
    kind_ = kAbsent;
    num_bytes_ = 0;
  }
  Kind kind() const { return kind_; }

  // Hands over the text, cut to its size; free() ends it.
  uint8_t* release_text() {
    out();
    uint8_t* whole = text_.release();
    void* cut = std::realloc(whole, static_cast<std::size_t>(std::max<int64_t>(1, offsets.back())));
    return cut ? static_cast<uint8_t*>(cut) : whole;
  }
  const uint8_t* text() const { return text_.get(); }

  std::vector<int64_t> offsets{0};  // rows + 1
  std::vector<uint8_t> kinds;       // rows

 private:
  struct Free {
    void operator()(uint8_t* p) const { std::free(p); }
  };
  std::size_t capacity_;
  std::unique_ptr<uint8_t, Free> text_;
  Kind kind_ = kAbsent;  // of the row that is being read
  int64_t num_bytes_ = 0;
};

struct BadLine {
  int64_t line, begin, num_bytes;
  std::string reason;
};

struct Scanned {
  int64_t num_lines = 0, num_blank = 0;
  std::vector<int64_t> rows;    // line number of each good line
  std::vector<int64_t> spans;   // its first byte and its bytes, without the line's end
  std::vector<Column> columns;  // one a key, then the member "id"
  std::vector<BadLine> bad;
};

namespace scanner {

// Passes over the plain bytes inside strings and notes whether any lies beyond ASCII.
class PlainRun {
 public:
  // Moves `p` to the first quote, backslash or control character. With kKeep the bytes before it
  // go to `out`, many at a time as long as that many are left to read, so that some of what follows
  // them is written too: there is room for it, as a column never holds more bytes than have been
  // read of the block, and it is written over or cut off later.
  template <bool kKeep>
  void pass(const uint8_t*& p_, const uint8_t* end, uint8_t*& out_) {
    const uint8_t* p = p_;
    uint8_t* out = out_;
    if (!blocks<kKeep>(p, end, out)) {
      uint8_t seen = 0;
      while (p < end && *p >= 0x20 && *p != '"' && *p != '\\') {
        seen |= *p;
        if constexpr (kKeep) *out++ = *p;
        ++p;
      }
      seen_high_ |= seen & 0x80;
    }
    p_ = p;
    out_ = out;
  }

  bool seen_high() const { return seen_high_ != 0; }

 private:
  // Whether the end of the run was found; `seen_high_` may be set by what follows it.
#if defined(__SSE2__)
  // Four registers at a time, for the processor to guess right: few runs of a text are longer, so
  // that `stops` is hardly ever 0, while a run's number of single registers is anybody's guess. Of
  // program sources 2.0 GB a second in place of 1.85 (2026-11-22).
  template <bool kKeep>
  bool blocks(const uint8_t*& p, const uint8_t* end, uint8_t*& out) {
    for (; end - p >= 64; p += 64, out += kKeep ? 64 : 0) {
      uint64_t stops = 0;
      for (int i = 0; i < 4; ++i) stops |= block<kKeep>(p, out, 16 * i) << (16 * i);
      if (stops != 0) return move<kKeep>(__builtin_ctzll(stops), p, out);
    }
    for (; end - p >= 16; p += 16, out += kKeep ? 16 : 0) {
      const uint64_t stops = block<kKeep>(p, out, 0);
      if (stops != 0) return move<kKeep>(__builtin_ctzll(stops), p, out);
    }
    return false;
  }
  // A bit for each of the sixteen bytes from p + at on at which a run ends.
  template <bool kKeep>
  uint64_t block(const uint8_t* p, uint8_t* out, int at) {
    const __m128i last_control = _mm_set1_epi8(0x1F);
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + at));
    if constexpr (kKeep) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + at), v);
    seen_high_ |= _mm_movemask_epi8(v);
    const __m128i is_quote = _mm_cmpeq_epi8(v, _mm_set1_epi8('"'));
    const __m128i is_backslash = _mm_cmpeq_epi8(v, _mm_set1_epi8('\\'));
    const __m128i is_control = _mm_cmpeq_epi8(_mm_max_epu8(v, last_control), last_control);
    return static_cast<uint64_t>(
        _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(is_quote, is_backslash), is_control)));
  }
  template <bool kKeep>
  static bool move(int count, const uint8_t*& p, uint8_t*& out) {
    p += count;
    if constexpr (kKeep) out += count;
    return true;
  }
#elif defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  template <bool kKeep>
  bool blocks(const uint8_t*& p, const uint8_t* end, uint8_t*& out) {
    constexpr uint64_t kOnes = 0x0101010101010101u, kHigh = 0x8080808080808080u;
    // High bits of the bytes below `bound`; above the lowest of them it may err, never below.
    const auto below = [](uint64_t word, uint64_t bound) {
      return (word - kOnes * bound) & ~word & kHigh;
    };
    uint64_t seen = 0, stops = 0;
    while (stops == 0 && end - p >= 8) {
      uint64_t word;
      std::memcpy(&word, p, 8);
      if constexpr (kKeep) std::memcpy(out, &word, 8);
      seen |= word;
      stops = below(word ^ kOnes * '"', 1) | below(word ^ kOnes * '\\', 1) | below(word, 0x20);
      const int count = stops ? __builtin_ctzll(stops) / 8 : 8;
      p += count;
      if constexpr (kKeep) out += count;
    }
    seen_high_ |= (seen & kHigh) != 0;
    return stops != 0;
  }
#else
  template <bool kKeep>
  bool blocks(const uint8_t*&, const uint8_t*, uint8_t*&) {
    return false;
  }
#endif

  int seen_high_ = 0;
};

inline bool is_digit(int c) { return c >= '0' && c <= '9'; }

inline int hex_value(uint8_t c) {
  if (c >= '0' && c <= '9') return c - '0';
  const uint8_t lower = c | 0x20;
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// What a one-letter escape stands for, by its letter; 0: it is none. A table, since a switch would
// be mispredicted at every other escape of a text with LaTeX.
struct SimpleEscapes {
  uint8_t meaning[256] = {};
  constexpr SimpleEscapes() {
    for (const char c : {'"', '\\', '/'}) meaning[static_cast<uint8_t>(c)] = c;
    meaning['b'] = '\b';
    meaning['f'] = '\f';
    meaning['n'] = '\n';
    meaning['r'] = '\r';
    meaning['t'] = '\t';
  }
};
inline constexpr SimpleEscapes kSimpleEscapes;

inline uint8_t* put_character(uint32_t code, uint8_t* out) {
  if (code < 0x80) {
    *out++ = static_cast<uint8_t>(code);
  } else if (code < 0x800) {
    *out++ = static_cast<uint8_t>(0xC0 | code >> 6);
    *out++ = static_cast<uint8_t>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    *out++ = static_cast<uint8_t>(0xE0 | code >> 12);
    *out++ = static_cast<uint8_t>(0x80 | (code >> 6 & 0x3F));
    *out++ = static_cast<uint8_t>(0x80 | (code & 0x3F));
  } else {
    *out++ = static_cast<uint8_t>(0xF0 | code >> 18);
    *out++ = static_cast<uint8_t>(0x80 | (code >> 12 & 0x3F));
    *out++ = static_cast<uint8_t>(0x80 | (code >> 6 & 0x3F));
    *out++ = static_cast<uint8_t>(0x80 | (code & 0x3F));
  }
  return out;
}

// Reads one line. Every reading function leaves `p` behind what it has read, or answers false with
// `fault` set where the line cannot be taken.
class Line {
 public:
  // Bytes up to `readable` may be loaded, since a line's end stops every run.
  Line(const uint8_t* begin, const uint8_t* end, const uint8_t* readable)
      : p(begin), begin_(begin), end_(end), readable_(readable) {}

  const uint8_t* p;
  std::string fault;

  bool is_read() const { return p == end_; }
  bool has_bom() const { return end_ - begin_ >= 3 && std::memcmp(begin_, "\xEF\xBB\xBF", 3) == 0; }
  // Bytes beyond ASCII are noted on the way inside strings; anywhere else they are faults.
  bool is_valid_utf8() const {
    return (fault.empty() && !run_.seen_high()) || utf8::is_valid(begin_, end_);
  }

  void space() {
    while (p < end_ && (*p == ' ' || *p == '\t' || *p == '\r')) ++p;
  }

  // The members of an object, whose brace is at `p`; `visit(name, name's bytes, has escapes)` must
  // read the value.
  template <typename Visit>
  bool object(const Visit& visit) {
    ++p;
    space();
    if (peek() == '}') return take('}', "");
    for (;;) {
      const uint8_t* const name = p + 1;
      bool has_escapes = false;
      if (!this->name(has_escapes)) return false;
      const auto num_bytes = static_cast<std::size_t>(name_end_ - name);
      if (!visit(name, num_bytes, has_escapes)) return false;
      space();
      if (peek() != ',') return take('}', "',' or '}'");
      ++p;
      space();
    }
  }

  // One value into a column.
  bool value(Column& column) {
    Kind kind;
    uint8_t* out = column.out();
    if (peek() == '"') {
      bool has_escapes = false;
      if (!string<true>(out, kind, has_escapes)) return false;
      column.set(kind, kind == kHalfPair ? column.out() : out);
      return true;
    }
    const uint8_t* const begin = p;
    if (!skip_value(1, kind)) return false;
    if (kind != kNull) out = std::copy(begin, p, out);
    column.set(kind, out);
    return true;
  }

  // The member "id" into a column: a string, or a number as it is spelled; nothing else.
  bool identity(Column& column) {
    if (!value(column)) return false;
    if (column.kind() >= kNull && column.kind() != kNumber) column.set(column.kind(), column.out());
    return true;
  }

  // Passes over one value, `depth` brackets being open around it.
  bool skip_value(int depth, Kind& kind) {
    const int outside = depth;
    kind = kind_of(peek());
    for (;;) {  // a value begins here
      const int c = peek();
      if (c == '{' || c == '[') {
        if (depth == kMaxDepth) {
          fault = "nested deeper than " + std::to_string(kMaxDepth);
          return false;
        }
        is_brace_[depth++] = c == '{';
        ++p;
        space();
        if (peek() == (c == '{' ? '}' : ']')) {
          ++p;
          --depth;
        } else {
          bool has_escapes;
          if (c == '{' && !name(has_escapes)) return false;
          continue;
        }
      } else if (!scalar(c)) {
        return false;
      }
      for (;;) {  // a value ended here
        if (depth == outside) return true;
        const bool brace = is_brace_[depth - 1];
        space();
        if (peek() == ',') {
          ++p;
          space();
          bool has_escapes;
          if (brace && !name(has_escapes)) return false;
          break;
        }
        if (!take(brace ? '}' : ']', brace ? "',' or '}'" : "',' or ']'")) return false;
        --depth;
      }
    }
  }

  // A string, whose quote is at `p`. With kKeep, `out` moves behind its unescaped bytes.
  template <bool kKeep>
  bool string(uint8_t*& out, Kind& kind, bool& has_escapes) {
    ++p;
    kind = kString;
    for (;;) {
      run_.template pass<kKeep>(p, readable_, out);
      if (p >= end_) return fail("the end of a string");
      if (*p == '"') {
        ++p;
        return true;
      }
      if (*p != '\\') return fail("no control character inside a string");
      has_escapes = true;
      const uint8_t simple = end_ - p < 2 ? 0 : kSimpleEscapes.meaning[p[1]];
      if (simple != 0) {
        p += 2;
        if constexpr (kKeep) *out++ = simple;
        continue;
      }
      uint32_t code = 0;
      if (!unicode_escape(p, code)) return fail("an escape of JSON");
      p += 6;
      uint32_t low = 0;
      if (code >= 0xD800 && code < 0xDC00 && unicode_escape(p, low) && low >= 0xDC00 &&
          low < 0xE000) {
        p += 6;
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      }
      if (code >= 0xD800 && code < 0xE000) kind = kHalfPair;
      if (code == 0 && kind == kString) kind = kNulString;
      if constexpr (kKeep) out = put_character(code, out);
    }
  }

  int peek() const { return p < end_ ? *p : -1; }

  bool fail(const char* expected) {
    fault = "not JSON: " + std::string(expected) + " expected at byte " +
            std::to_string(p - begin_);
    return false;
  }

 private:
  bool take(char c, const char* expected) {
    if (peek() != c) return fail(expected);
    ++p;
    return true;
  }

  // A member's name and the colon behind it, up to its value.
  bool name(bool& has_escapes) {
    if (peek() != '"') return fail("a key");
    Kind kind;
    uint8_t* nowhere = nullptr;
    if (!string<false>(nowhere, kind, has_escapes)) return false;
    name_end_ = p - 1;
    space();
    if (!take(':', "':'")) return false;
    space();
    return true;
  }

  static Kind kind_of(int c) {
    switch (c) {
      case '"': return kString;
      case '{': return kObject;
      case '[': return kArray;
      case 'n': return kNull;
      case 't':
      case 'f': return kBool;
      default: return kNumber;
    }
  }

  bool scalar(int c) {
    switch (c) {
      case '"': {
        Kind kind;
        bool has_escapes;
        uint8_t* nowhere = nullptr;
        return string<false>(nowhere, kind, has_escapes);
      }
      case 't': return word("true");
      case 'f': return word("false");
      case 'n': return word("null");
      case 'N': return word("NaN");
      case 'I': return word("Infinity");
      default: return number();
    }
  }

  bool word(const char* expected) {
    const std::ptrdiff_t count = static_cast<std::ptrdiff_t>(std::strlen(expected));
    if (end_ - p < count || std::memcmp(p, expected, static_cast<std::size_t>(count)) != 0) {
      return fail("a value");
    }
    p += count;
    return true;
  }

  bool number() {
    if (peek() == '-') {
      ++p;
      if (peek() == 'I') return word("Infinity");
    }
    if (peek() == '0') {
      ++p;
    } else if (!digits("a value")) {
      return false;
    }
    if (peek() == '.') {
      ++p;
      if (!digits("a digit")) return false;
    }
    if (peek() == 'e' || peek() == 'E') {
      ++p;
      if (peek() == '+' || peek() == '-') ++p;
      if (!digits("a digit")) return false;
    }
    return true;
  }

  bool digits(const char* expected) {
    if (!is_digit(peek())) return fail(expected);
    while (is_digit(peek())) ++p;
    return true;
  }

  // The code of a \uXXXX at `at`; false where there is none.
  bool unicode_escape(const uint8_t* at, uint32_t& code) const {
    if (end_ - at < 6 || at[0] != '\\' || at[1] != 'u') return false;
    code = 0;
    for (int i = 2; i < 6; ++i) {
      const int digit = hex_value(at[i]);
      if (digit < 0) return false;
      code = code << 4 | static_cast<uint32_t>(digit);
    }
    return true;
  }

  const uint8_t* const begin_;
  const uint8_t* const end_;
  const uint8_t* const readable_;
  const uint8_t* name_end_ = nullptr;
  PlainRun run_;
  std::bitset<kMaxDepth> is_brace_;  // of the brackets that are open
};

// Finds the column of a member's name.
class Keys {
 public:
  explicit Keys(std::vector<std::string> keys) : keys_(std::move(keys)) {
    num_wanted_ = keys_.size();
    const auto id = std::find(keys_.begin(), keys_.end(), "id");
    id_ = static_cast<std::size_t>(id - keys_.begin());
    if (id == keys_.end()) keys_.emplace_back("id");
    for (const std::string& key : keys_) longest_ = std::max(longest_, key.size());
  }

  bool is_key(std::size_t key) const { return key < keys_.size(); }
  bool is_wanted(std::size_t key) const { return key < num_wanted_; }
  bool is_id(std::size_t key) const { return key == id_; }

  // Its number; one that is no key where it is none of them.
  std::size_t find(const uint8_t* name, std::size_t num_bytes, bool has_escapes) {
    if (has_escapes) {
      if (num_bytes > 6 * longest_) return keys_.size();  // an escape has 6 bytes at most
      spelled_.resize(num_bytes + 1);  // with the quote that ends it
      uint8_t* out = spelled_.data();
      Kind kind;
      Line(name - 1, name + num_bytes + 1, name + num_bytes + 1)
          .string<true>(out, kind, has_escapes);
      name = spelled_.data();  // half a pair is spelled too, as bytes that are in no key
      num_bytes = static_cast<std::size_t>(out - name);
    }
    std::size_t k = 0;
    while (k < keys_.size() && (keys_[k].size() != num_bytes ||
                                std::memcmp(keys_[k].data(), name, num_bytes) != 0)) {
      ++k;
    }
    return k;
  }

 private:
  std::vector<std::string> keys_;
  std::size_t num_wanted_, id_, longest_ = 0;
  std::vector<uint8_t> spelled_;
};

// One line that is not blank. The reason why it is bad, or nothing; a bad line leaves no row.
inline std::string read_row(Line& line, Keys& keys, std::vector<Column>& columns) {
  bool is_object = line.peek() == '{';
  Kind kind;
  const bool read =
      is_object ? line.object([&](const uint8_t* name, std::size_t num_bytes, bool has_escapes) {
        const std::size_t key = keys.find(name, num_bytes, has_escapes);
        if (!keys.is_key(key)) return line.skip_value(1, kind);
        const uint8_t* const begin = line.p;
        if (keys.is_id(key) && !line.identity(columns.back())) return false;
        if (!keys.is_wanted(key)) return true;
        line.p = begin;
        return line.value(columns[key]);
      })
                : line.skip_value(0, kind);
  if (read) {
    line.space();
    if (!line.is_read()) line.fail("the end of the line");
  }
  if (!line.is_valid_utf8()) return "invalid UTF-8";
  if (line.has_bom()) return "byte order mark";
  if (!line.fault.empty()) return line.fault;
  if (!is_object) return "not an object";
  return columns.back().kind() == kHalfPair ? "half a surrogate pair" : "";
}

}  // namespace scanner

// Every line of a block; the last one may lack its end. `keys` are UTF-8 and differ.
inline Scanned scan(const uint8_t* block, std::size_t size, const std::vector<std::string>& keys) {
  Scanned result;
  for (std::size_t k = 0; k <= keys.size(); ++k) result.columns.emplace_back(size);
  scanner::Keys finder(keys);
  const uint8_t* const end = block + size;
  for (const uint8_t* begin = block; begin != end; ++result.num_lines) {
    const void* newline = std::memchr(begin, '\n', static_cast<std::size_t>(end - begin));
    const uint8_t* const line_end = newline ? static_cast<const uint8_t*>(newline) : end;
    scanner::Line line(begin, line_end, end);
    line.space();
    if (line.is_read()) {
      ++result.num_blank;
    } else {
      std::string reason = scanner::read_row(line, finder, result.columns);
      const int64_t at = begin - block, num_bytes = line_end - begin;
      if (reason.empty()) {
        for (Column& column : result.columns) column.keep_row();
        result.rows.push_back(result.num_lines);
        result.spans.insert(result.spans.end(), {at, num_bytes});
      } else {
        for (Column& column : result.columns) column.drop_row();
        result.bad.push_back({result.num_lines, at, num_bytes, std::move(reason)});
      }
    }
    begin = newline ? line_end + 1 : end;
  }
  return result;
}

}  // namespace json_lines
