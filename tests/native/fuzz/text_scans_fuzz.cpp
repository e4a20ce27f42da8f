// Fuzz target of csrc/words.cpp, row_search.cpp, shingles.cpp and text_digests.h, driving itself:
// ./text_scans_fuzz [seconds] [seed]. Texts lie in memory of exactly their size, so that one byte too
// far is seen; a table of characters with every kind stands in for Unicode's.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>

#include "row_search.h"
#include "shingles.h"
#include "text_digests.h"
#include "words.h"

namespace {

using words::Splitting;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

words::Characters characters(bool keep_all) {
  std::vector<uint8_t> kinds;
  std::vector<int32_t> offsets{0};
  std::string bytes;
  for (int code = 0x80; code < 0x3000; ++code) {
    const int kind = keep_all ? (code % 7 ? 1 : 4) : code % 5;
    kinds.push_back(static_cast<uint8_t>(kind));
    if (kind == 1 || kind == 2 || kind == 3) {
      bytes += code % 3 ? "\xce\xb1" : code % 2 ? "1\x01" "2" : "a\xcc\x81" "bcdefgh";
    }
    offsets.push_back(static_cast<int32_t>(bytes.size()));
  }
  return {std::move(kinds), std::move(offsets), std::move(bytes), keep_all};
}

class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}
  std::size_t below(std::size_t count) { return random_() % count; }
  std::string text() {
    static const char* const kPieces[] = {
        "a", "b", "word", " ", " ", " ", "12", "1,000", ",\\!000", "{,}000", ".5", "3.50", "\\frac12",
        "\\frac 1 ", "\\begin{x}", "\\begin{", "\\", "\\pi", "three", "'", "-", "^", "=", "$", "?", "_",
        "\xc2\x80", "\xce\x91", "\xe4\xb8\xad", "\xf0\xa0\x80\x81", "\xe2\x82", "\xff", "\xcc\x81", "\x01"};
    std::string made;
    for (std::size_t count = below(below(20) ? 60 : 600); count > 0; --count) {
      made += kPieces[below(sizeof kPieces / sizeof *kPieces)];
      if (below(3)) made += ' ';
    }
    if (below(10) == 0) made += std::string(below(40), static_cast<char>(below(256)));
    return made;
  }

 private:
  std::mt19937_64 random_;
};

void check(Generator& draw, const words::Splitter& splitter) {
  std::vector<std::string> rows, pieces;
  for (std::size_t i = draw.below(6) + 1; i > 0; --i) rows.push_back(draw.text());
  std::vector<int64_t> offsets{0};
  std::string joined;
  for (std::size_t i = draw.below(5) + 1; i > 0; --i) {
    for (std::size_t part = draw.below(4); part > 0; --part) {
      joined += draw.below(2) ? draw.text() : rows[draw.below(rows.size())];
    }
    offsets.push_back(static_cast<int64_t>(joined.size()));
  }
  const std::unique_ptr<uint8_t[]> exact(new uint8_t[joined.size()]);
  std::copy(joined.begin(), joined.end(), exact.get());
  const texts::Flat flat{exact.get(), static_cast<int64_t>(joined.size()), offsets.data(),
                         static_cast<int64_t>(offsets.size()) - 1};
  row_search::Searcher searcher(
      splitter, {{Splitting::kPlain, 4, 3, row_search::Need::kSeed, 0, false},
                 {Splitting::kMath, 4, 3, row_search::Need::kShare, 0.6, false},
                 {Splitting::kNumbers, 5, 4, row_search::Need::kShare, 0.8, false},
                 {Splitting::kChunks, 4, 3, row_search::Need::kWhole, 0, true}});
  for (uint32_t rule = 0; rule < 4; ++rule) {
    for (const std::string& row : rows) {
      const std::unique_ptr<uint8_t[]> own(new uint8_t[row.size()]);
      std::copy(row.begin(), row.end(), own.get());
      searcher.add_row(rule, own.get(), row.size());
    }
  }
  searcher.build();
  const auto hits = searcher.search(flat, 1), again = searcher.search(flat, 3);
  require(hits.size() == again.size(), "as many hits in three threads");
  for (std::size_t i = 0; i < hits.size(); ++i) {
    const row_search::Hit &hit = hits[i], &other = again[i];
    require(hit.text == other.text && hit.row == other.row && hit.span.begin == other.span.begin &&
                hit.span.end == other.span.end && hit.num_words == other.num_words,
            "the same hits in three threads");
    require(hit.span.begin < hit.span.end &&
                hit.span.end <= offsets[hit.text + 1] - offsets[hit.text] &&
                hit.row_span.begin < hit.row_span.end &&
                hit.row_span.end <= rows[hit.row].size() && hit.num_words <= hit.row_words,
            "spans inside their texts");
  }
  const shingles::Hasher hasher(splitter, 3, 4, 2, 1);
  std::vector<uint64_t> bands(4 * static_cast<std::size_t>(flat.count));
  std::vector<int64_t> num_words(static_cast<std::size_t>(flat.count));
  hasher.bands(flat, 2, bands.data(), num_words.data());
  const int64_t first = 0, last = flat.count - 1;
  double index[2];
  hasher.jaccard(flat, &first, &last, 1, 1, index);
  hasher.jaccard(flat, &first, &first, 1, 1, index + 1);
  require(index[0] >= 0 && index[0] <= 1 && index[1] == (num_words[0] > 0 ? 1 : 0), "an index");

  static const text_digests::Folding folding(
      {{0x80, "longer"}, {0x391, " "}, {0x4E2D, "\xe4\xb8\xad\xe4\xb8\xad\xe4\xb8\xad"}, {0x20001, "x"}});
  text_digests::Digester digester(folding);
  uint8_t digest[text_digests::kDigestBytes], spaced[text_digests::kDigestBytes];
  digester.digest(exact.get(), joined.size(), digest);
  std::string wider = " \n";
  for (const char c : joined) wider += c == ' ' ? std::string("\t \xce\x91") : std::string(1, c);
  wider += '\x1f';
  digester.digest(reinterpret_cast<const uint8_t*>(wider.data()), wider.size(), spaced);
  require(std::equal(digest, digest + sizeof digest, spaced), "one digest, whatever the spaces");
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 10;
  Generator draw(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  const words::Splitter splitter(
      characters(false), characters(true),
      {{"left", 1}, {"begin", 2}, {"end", 2}, {"frac", 3}, {"cdot", 4}}, {"three", "four"});
  const auto started = std::chrono::steady_clock::now();
  int64_t num_rounds = 0;
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count() <
         seconds) {
    check(draw, splitter);
    ++num_rounds;
  }
  std::printf("%lld rounds, nothing found\n", static_cast<long long>(num_rounds));
  return 0;
}
