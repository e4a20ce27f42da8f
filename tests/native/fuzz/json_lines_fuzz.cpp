// Fuzz target of csrc/json_lines.h, csrc/utf8.h and csrc/texts.h, to be built with ASan and UBSan:
//
//   g++ -std=c++17 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -iquote csrc
//       tests/native/fuzz/json_lines_fuzz.cpp -o json_lines_fuzz && ./json_lines_fuzz 20 1
//
// Without libFuzzer it drives itself: ./json_lines_fuzz [seconds] [seed]. With
// clang++ -fsanitize=fuzzer,address,undefined -DLIBFUZZER the fuzzer drives it.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>

#include "json_lines.h"
#include "texts.h"

namespace {

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

void check_column(const json_lines::Column& column, std::size_t num_rows) {
  require(column.offsets.size() == num_rows + 1 && column.kinds.size() == num_rows, "column sizes");
  for (std::size_t row = 0; row < num_rows; ++row) {
    const int64_t begin = column.offsets[row], end = column.offsets[row + 1];
    require(0 <= begin && begin <= end, "offsets rise");
    require(utf8::is_valid_plain(column.text() + begin, column.text() + end), "UTF-8 comes out");
    const bool bare = column.kinds[row] == json_lines::kAbsent ||
                      column.kinds[row] == json_lines::kHalfPair ||
                      column.kinds[row] == json_lines::kNull;
    require(!bare || begin == end, "no bytes where there is no value");
    require(column.kinds[row] <= json_lines::kObject, "a kind");
  }
}

// `data` in memory of exactly its size, so that one byte too far is seen.
void check(const uint8_t* data, std::size_t size) {
  const std::unique_ptr<uint8_t[]> exact(new uint8_t[size]);
  std::copy(data, data + size, exact.get());
  const uint8_t* const block = exact.get();
  require(utf8::is_valid(block, block + size) == utf8::is_valid_plain(block, block + size),
          "both UTF-8 checks agree");
  const json_lines::Scanned scanned = json_lines::scan(block, size, {"text", "id", "a", ""});
  const auto newlines = std::count(block, block + size, '\n');
  require(scanned.num_lines == newlines + (size > 0 && block[size - 1] != '\n'), "every line");
  const auto num_rows = scanned.rows.size();
  require(static_cast<std::size_t>(scanned.num_lines - scanned.num_blank) ==
              num_rows + scanned.bad.size(),
          "every line is a row, blank or bad");
  for (const json_lines::Column& column : scanned.columns) check_column(column, num_rows);
  for (const json_lines::BadLine& line : scanned.bad) {
    require(line.begin >= 0 && line.num_bytes > 0 &&
                line.begin + line.num_bytes <= static_cast<int64_t>(size) && !line.reason.empty(),
            "a bad line's place");
  }
  // What was read of a row by itself is what was read of it in the block.
  for (std::size_t row = 0; row < num_rows && row < 4; ++row) {
    const int64_t begin = scanned.spans[2 * row], num_bytes = scanned.spans[2 * row + 1];
    const auto alone =
        json_lines::scan(block + begin, static_cast<std::size_t>(num_bytes), {"text"});
    require(alone.rows.size() == 1, "a good line is good by itself");
    const json_lines::Column &one = alone.columns[0], &all = scanned.columns[0];
    require(one.kinds[0] == all.kinds[row] &&
                std::equal(one.text(), one.text() + one.offsets[1], all.text() + all.offsets[row],
                           all.text() + all.offsets[row + 1]),
            "the same text by itself");
  }
  // Any choices, offsets and lengths are refused or stay inside. Offsets mostly rise to the end.
  std::vector<int64_t> numbers(size / 2 + 2), offsets(size / 4 + 2);
  const auto small = [&](std::size_t i) { return size ? static_cast<int8_t>(block[i % size]) : 0; };
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = small(i);
  for (std::size_t i = 1; i < offsets.size(); ++i) {
    const int64_t next = offsets[i - 1] + small(i) % 8 + (size % 16 != 0 ? 7 : 0);
    offsets[i] = size % 16 == 1 ? next : std::min(next, static_cast<int64_t>(size));
  }
  const auto count = static_cast<int64_t>(numbers.size());
  const auto num_strings = static_cast<int64_t>(offsets.size()) - 1;
  std::vector<int64_t> choices(numbers);
  for (int64_t& choice : choices) {
    choice = size % 8 == 0 ? choice : (choice + 128) % (num_strings + (size % 8 != 1 ? 1 : 2)) - 1;
  }
  try {
    const texts::Flat pool{block, static_cast<int64_t>(size), offsets.data(), num_strings};
    const std::vector<texts::Part> parts{{pool, choices.data()}, {pool, choices.data()}};
    std::vector<int64_t> starts(numbers.size() + 1), ends(2 * numbers.size());
    texts::measure(parts, count, starts.data(), ends.data());
    std::vector<uint8_t> joined(static_cast<std::size_t>(starts.back()));
    texts::join(parts, count, joined.data());
    texts::find_invalid_utf8(pool);
    static const int64_t ranges[] = {0x88F, 0x88F, 0x2427, 0x2429, 0x31E4, 0x3FFFF};
    static const texts::CharacterSet characters(ranges, 3);
    characters.texts_with(pool);
  } catch (const std::invalid_argument&) {
  }
  // Tokens of texts that have one or two segments each; now and then a number is any other.
  std::vector<int64_t> firsts(numbers.size());
  std::vector<int32_t> lengths(numbers.size() - 1);
  int64_t num_tokens = 0;
  firsts[0] = size % 32 == 6 ? -1 : 0;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    lengths[i] = size % 32 == 5 ? small(i) : small(i) & 3;
    num_tokens += std::max(0, lengths[i]);
    firsts[i + 1] = size % 32 == 7 ? small(i) : firsts[i] + 1 + (small(i) & 1);
  }
  const std::size_t num_segments = static_cast<std::size_t>(
      std::clamp<int64_t>(firsts.back() - (size % 32 == 8), 0, int64_t{1} << 20));
  if (size % 32 == 9) num_tokens /= 2;
  const std::vector<int64_t> ends(num_segments, 3);
  const std::vector<int64_t> token_ends(static_cast<std::size_t>(num_tokens), 4);
  const std::vector<uint8_t> segment_roles(num_segments, 1);
  std::vector<uint8_t> roles(token_ends.size());
  try {
    const texts::Segments segments{firsts.data(), ends.data(), segment_roles.data(),
                                   static_cast<int64_t>(num_segments)};
    texts::token_roles(token_ends.data(), num_tokens, lengths.data(), count - 1, segments,
                       roles.data());
  } catch (const std::invalid_argument&) {
  }
}

}  // namespace

#ifdef LIBFUZZER
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  check(data, size);
  return 0;
}
#else
namespace {

class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}

  std::string block() {
    std::string bytes;
    for (int64_t count = below(6); count >= 0; --count) {
      bytes += space() + (below(8) ? object(0) : value(0)) + space();
      if (count > 0 || below(2)) bytes += '\n';
    }
    for (int64_t count = below(2) ? 0 : below(6); count > 0 && !bytes.empty(); --count) {
      const auto at = static_cast<std::size_t>(below(static_cast<int64_t>(bytes.size())));
      switch (below(4)) {
        case 0: bytes[at] = static_cast<char>(below(256)); break;
        case 1: bytes[at] = kTelling[below(sizeof kTelling - 1)]; break;
        case 2: bytes.erase(at, static_cast<std::size_t>(below(5))); break;
        default: bytes.insert(at, 1, kTelling[below(sizeof kTelling - 1)]);
      }
    }
    return bytes;
  }

 private:
  static constexpr char kTelling[] =
      "\"\\{}[],:\n\r\t 0123456789-+.eEuNInf\xC0\xE0\xED\xEF\xF4\x80\xBF";

  int64_t below(int64_t bound) {
    return static_cast<int64_t>(random_() % static_cast<uint64_t>(bound));
  }

  std::string space() {
    return std::string(below(4) ? 0 : static_cast<std::size_t>(below(3)), ' ');
  }

  std::string string() {
    static const char* const kSpelled[] = {
        "\\n", "\\\\", "\\\"", "\\/", "\\u0041", "\\u0000", "\\u00e9", "\\ud83d\\ude00", "\\ud800",
        "\\ude00", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "text", "x",
        "a long run of text"};
    std::string bytes = "\"";
    for (int64_t count = below(below(10) ? 6 : 60); count > 0; --count) {
      bytes += kSpelled[below(16)];
    }
    return bytes + '"';
  }

  std::string object(int depth) {
    static const char* const kNames[] = {"\"text\"", "\"te\\u0078t\"", "\"id\"", "\"a\"", "\"\""};
    std::string bytes = "{" + space();
    for (int64_t count = below(5); count > 0; --count) {
      bytes += below(5) ? kNames[below(5)] : string();
      bytes += space() + ":" + space() + value(depth + 1) + space() + (count > 1 ? "," : "");
    }
    return bytes + "}";
  }

  std::string value(int depth) {
    static const char* const kScalars[] = {"null", "true", "false", "NaN", "-Infinity", "0",
                                           "-1.5e+10", "12345678901234567890123"};
    switch (below(depth > 6 ? 4 : 7)) {
      case 0: return kScalars[below(8)];
      case 4: return object(depth);
      case 5: {
        std::string bytes = "[";
        for (int64_t count = below(4); count > 0; --count) {
          bytes += value(depth + 1) + (count > 1 ? "," : "");
        }
        return bytes + "]";
      }
      case 6: {
        if (below(20)) return string();
        const auto levels = static_cast<std::size_t>(120 + below(16));
        return std::string(levels, '[') + "1" + std::string(levels, ']');
      }
      default: return string();
    }
  }

  std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 10;
  Generator generator(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  const auto started = std::chrono::steady_clock::now();
  int64_t num_blocks = 0;
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count() <
         seconds) {
    const std::string block = generator.block();
    check(reinterpret_cast<const uint8_t*>(block.data()), block.size());
    ++num_blocks;
  }
  std::printf("%lld blocks, nothing found\n", static_cast<long long>(num_blocks));
  return 0;
}
#endif
