#include "row_search.h"

#include <algorithm>
#include <stdexcept>
#include <tuple>

#include "threads.h"

namespace row_search {

namespace {

constexpr uint64_t kBase = 0x9FB21C651E98DF25u;
constexpr uint64_t kSpread = 0xD6E8FEB86659FD93u;
constexpr uint32_t kShortSeedWords = 3;
constexpr int64_t kTextsAtATime = 16;

int bits_for(std::size_t count) {  // 2 to the power of it is at least `count`
  int bits = 6;
  while ((std::size_t{1} << bits) < count) ++bits;
  return bits;
}

// Three bits in one block of the bitmap; a key whose bits are not all there is no seed's.
uint64_t bits_of(uint64_t key) {
  return uint64_t{1} << (key & 63) | uint64_t{1} << (key >> 6 & 63) | uint64_t{1} << (key >> 12 & 63);
}

std::size_t block_of(uint64_t spread, int shift) { return shift == 64 ? 0 : spread >> shift; }

bool equal_run(const Words& row, std::size_t in_row, const Words& text, std::size_t in_text,
               std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    if (!equal(row, in_row + i, text, in_text + i)) return false;
  }
  return true;
}

// Whether a run holds two different words of letters: what does not is in every table of numbers.
bool has_two_words(const Words& words, std::size_t first, std::size_t count) {
  uint64_t found = 0;
  for (std::size_t i = first; i < first + count; ++i) {
    const uint8_t letter = *words.form(i);
    if (letter < 'a' || (letter > 'z' && letter < 0x80)) continue;
    if (found != 0 && found != words.hashes()[i]) return true;
    found = words.hashes()[i];
  }
  return false;
}

}  // namespace

Seeds::Seeds(uint32_t length) : length_(length) {
  for (uint32_t i = 1; i < length; ++i) leaving_ *= kBase;
}

void Seeds::add(const Words& row, uint32_t number, uint32_t first_word) {
  uint64_t key = 0;
  for (uint32_t i = 0; i < length_; ++i) key = key * kBase + row.hashes()[first_word + i];
  pending_.push_back({key, {number, first_word}});
}

void Seeds::build() {
  std::sort(pending_.begin(), pending_.end(), [](const auto& a, const auto& b) {
    return std::tie(a.first, a.second.row, a.second.word) <
           std::tie(b.first, b.second.row, b.second.word);
  });
  const int slot_bits = bits_for(2 * pending_.size()), bitmap_bits = bits_for(6 * pending_.size());
  slots_.assign(std::size_t{1} << slot_bits, Slot{0, 0, 0});
  bitmap_.assign((std::size_t{1} << bitmap_bits) / 64, 0);
  slot_shift_ = 64 - slot_bits, bitmap_shift_ = 64 + 6 - bitmap_bits;
  for (std::size_t i = 0; i < pending_.size();) {
    const uint64_t key = pending_[i].first;
    const auto first = static_cast<uint32_t>(i);
    for (; i < pending_.size() && pending_[i].first == key; ++i) {
      places_.push_back(pending_[i].second);
    }
    const uint64_t spread = key * kSpread;
    bitmap_[block_of(spread, bitmap_shift_)] |= bits_of(key);
    std::size_t slot = spread >> slot_shift_;
    while (slots_[slot].count != 0) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = {key, first, static_cast<uint32_t>(i - first)};
  }
  pending_ = {};
}

template <typename Found>
inline void Seeds::look_up(uint64_t key, std::size_t at, const Found& found) const {
  const uint64_t spread = key * kSpread, bits = bits_of(key);
  if ((bitmap_[block_of(spread, bitmap_shift_)] & bits) != bits) return;
  for (std::size_t slot = spread >> slot_shift_; slots_[slot].count != 0;
       slot = (slot + 1) & (slots_.size() - 1)) {
    if (slots_[slot].key != key) continue;
    for (uint32_t i = 0; i < slots_[slot].count; ++i) {
      found(static_cast<uint32_t>(at), places_[slots_[slot].first + i]);
    }
    return;
  }
}

template <typename Found>
void Seeds::scan(const Words& text, const Found& found) const {
  const std::size_t size = text.size();
  if (places_.empty() || size < length_) return;
  const uint64_t* const hashes = text.hashes();
  if (length_ == 3) {  // no word waits for the one before
    for (std::size_t i = 0; i + 2 < size; ++i) {
      look_up(hashes[i] * (kBase * kBase) + hashes[i + 1] * kBase + hashes[i + 2], i, found);
    }
    return;
  }
  uint64_t key = 0;
  for (uint32_t i = 0; i + 1 < length_; ++i) key = key * kBase + hashes[i];
  for (std::size_t i = 0; i + length_ <= size; ++i) {
    key = key * kBase + hashes[i + length_ - 1];
    look_up(key, i, found);
    key -= hashes[i] * leaving_;
  }
}

WordPlaces::WordPlaces(const Words& words, bool backwards)
    : num_blocks_((words.size() + 63) / 64), shift_(64 - bits_for(2 * words.size() + 1)) {
  slots_.assign(std::size_t{1} << (64 - shift_), Slot{0, 0, 0});
  bits_.assign(1, 0);  // 0 is no word's
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::size_t word = backwards ? words.size() - 1 - i : i;
    const uint64_t hash = words.hashes()[word];
    std::size_t slot = (hash * kSpread) >> shift_;
    while (slots_[slot].bits != 0 && slots_[slot].hash != hash) {
      slot = (slot + 1) & (slots_.size() - 1);
    }
    if (slots_[slot].bits == 0) {
      slots_[slot] = {hash, static_cast<uint32_t>(word), static_cast<uint32_t>(bits_.size())};
      bits_.resize(bits_.size() + num_blocks_, 0);
    }
    bits_[slots_[slot].bits + i / 64] |= uint64_t{1} << i % 64;
  }
}

const uint64_t* WordPlaces::find(const Words& words, const Words& other, std::size_t word) const {
  const uint64_t hash = other.hashes()[word];
  for (std::size_t slot = (hash * kSpread) >> shift_; slots_[slot].bits != 0;
       slot = (slot + 1) & (slots_.size() - 1)) {
    if (slots_[slot].hash != hash) continue;
    return equal(words, slots_[slot].word, other, word) ? &bits_[slots_[slot].bits] : nullptr;
  }
  return nullptr;
}

namespace {

uint32_t num_ones(uint64_t x) {  // without asking for an instruction that not all processors have
  x -= x >> 1 & 0x5555555555555555u;
  x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
  return static_cast<uint32_t>(((x + (x >> 4)) & 0x0F0F0F0F0F0F0F0Fu) * 0x0101010101010101u >> 56);
}

// Longest common subsequence with one more word of the other side at a time, bit-parallel (Hyyro
// 2004): a bit of `row_` is 0 where the word of the row makes it longer.
class CommonLength {
 public:
  CommonLength(const Words& row, const WordPlaces& places, std::vector<uint64_t>& state)
      : words_(row), places_(places), row_(state) {
    row_.assign(places.num_blocks(), ~uint64_t{0});
  }

  // Whether it grew.
  bool take(const Words& other, std::size_t word) {
    const uint64_t* const bits = places_.find(words_, other, word);
    if (bits == nullptr) return false;
    uint64_t carry = 0;
    uint32_t zeros = 0;
    for (std::size_t k = 0; k < row_.size(); ++k) {
      const uint64_t value = row_[k], shared = value & bits[k];
      const uint64_t partial = value + shared, sum = partial + carry;
      carry = (partial < value) | (sum < partial);
      row_[k] = sum | (value & ~shared);
      zeros += num_ones(~row_[k]);
    }
    const bool grew = zeros > length_;
    length_ = zeros;
    return grew;
  }
  uint32_t length() const { return length_; }

 private:
  const Words& words_;
  const WordPlaces& places_;
  std::vector<uint64_t>& row_;
  uint32_t length_ = 0;
};

struct Range {
  uint32_t begin, end, num_words;
};

// Of `moving` the shortest beginning that shares as many words with `fixed` as all of it does, and
// of that the shortest end.
Range tightest(const Words& fixed, const WordPlaces& places, const Words& moving, uint32_t first,
               uint32_t last, double more_than, std::vector<uint64_t>& state) {
  CommonLength forwards(fixed, places, state);
  Range range{first, first, 0};
  for (uint32_t i = first; i < last; ++i) {
    if (forwards.take(moving, i)) range.end = i + 1;
  }
  range.num_words = forwards.length();
  if (!(range.num_words > more_than)) return range;
  const WordPlaces reversed(fixed, true);
  CommonLength backwards(fixed, reversed, state);
  range.begin = range.end;
  while (backwards.length() < range.num_words) backwards.take(moving, --range.begin);
  return range;
}

}  // namespace

struct Searcher::Found {
  uint32_t row = 0, num_words = 0;
  uint32_t begin = 0, end = 0, row_begin = 0, row_end = 0;  // words
  int64_t run_diagonal = 0;
  uint32_t run_end = 0;  // kSeed: the run that was found last, on that diagonal
};

struct Searcher::Scratch {
  std::vector<uint8_t> letters, chunks;
  std::vector<words::Origin> origins;
  Words by_splitting[4];
  std::vector<Found> found;
  std::unordered_map<uint32_t, std::size_t> found_of_row;
  std::unordered_set<uint64_t> windows;  // kShare: compared already
  std::vector<uint64_t> state;
};

Searcher::Searcher(const words::Splitter& splitter, std::vector<Rule> rules)
    : splitter_(splitter) {
  for (const Rule& rule : rules) {
    if (rule.seed_words < 1 || rule.least_words < 1 || rule.least_words > rule.seed_words ||
        (rule.least_words < rule.seed_words && rule.least_words < kShortSeedWords) ||
        !(rule.share >= 0 && rule.share <= 1)) {
      throw std::invalid_argument(
          "a rule of seeds of " + std::to_string(rule.seed_words) + " words for rows of " +
          std::to_string(rule.least_words) + " words and a share of " + std::to_string(rule.share) +
          "; rows have 3 words or as many as a seed, which has as many at least, and shares are 0 "
          "to 1");
    }
    uses_[static_cast<std::size_t>(rule.splitting)] = true;
    rules_.push_back({rule, {}, Seeds(rule.seed_words), Seeds(kShortSeedWords), {}});
  }
}

Searched Searcher::add_row(uint32_t rule_number, const uint8_t* text, std::size_t num_bytes) {
  if (built_) throw std::invalid_argument("rows are added before the searcher is built");
  if (rule_number >= rules_.size()) {
    throw std::invalid_argument("rule " + std::to_string(rule_number) + " of " +
                                std::to_string(rules_.size()));
  }
  RuleRows& rows = rules_[rule_number];
  const Rule& rule = rows.rule;
  const auto number = static_cast<uint32_t>(rows.rows.size());
  Row& row = rows.rows.emplace_back();
  const words::Characters& characters = splitter_.characters(rule.splitting);
  const uint32_t mapped_bytes = characters.map(text, num_bytes, row.mapped, &row.origins);
  Words words;
  splitter_.split(rule.splitting, row.mapped, mapped_bytes, words);
  row.words = words.part(0, words.size());
  const Words& found = row.words;
  if (found.size() == 0) return Searched::kNoWords;
  if (rule.splitting == Splitting::kNumbers) {
    bool any = false;
    for (std::size_t i = 0; i < found.size(); ++i) any |= *found.form(i) == words::kNumberMark;
    if (!any) return Searched::kNoNumbers;
  }
  if (rule.need == Need::kShare) row.places = std::make_unique<WordPlaces>(found, false);
  if (found.size() >= rule.seed_words) {
    const std::size_t last = rule.need == Need::kWhole ? 0 : found.size() - rule.seed_words;
    const auto is_telling = [&](std::size_t i) {
      return rule.need != Need::kShare || has_two_words(found, i, rule.seed_words);
    };
    bool any = false;
    for (std::size_t i = 0; i <= last; ++i) any |= is_telling(i);
    for (std::size_t i = 0; i <= last; ++i) {
      if (!any || is_telling(i)) rows.seeds.add(found, number, static_cast<uint32_t>(i));
    }
  } else if (found.size() >= rule.least_words) {
    rows.short_seeds.add(found, number, 0);
  } else if (rule.whole_texts) {
    rows.whole_texts[found.hashes()[0]].push_back(number);
    return Searched::kAsWholeText;
  } else {
    return Searched::kTooShort;
  }
  return Searched::kYes;
}

void Searcher::build() {
  for (RuleRows& rows : rules_) rows.seeds.build(), rows.short_seeds.build();
  built_ = true;
}

void Searcher::take_seed(const RuleRows& rows, const Words& text, uint32_t at, Place place,
                         bool whole, Scratch& scratch) const {
  const Words& row = rows.rows[place.row].words;
  const auto num_row = static_cast<uint32_t>(row.size());
  const auto num_text = static_cast<uint32_t>(text.size());
  const auto entry = scratch.found_of_row.find(place.row);
  Found* known = entry == scratch.found_of_row.end() ? nullptr : &scratch.found[entry->second];
  const int64_t diagonal = int64_t{at} - place.word;
  Found found;
  found.row = place.row;
  if (whole) {
    if (known != nullptr || num_row > num_text - at || !equal_run(row, 0, text, at, num_row)) {
      return;
    }
    found.num_words = num_row;
    found.begin = at, found.end = at + num_row;
    found.row_end = num_row;
  } else {
    const uint32_t seed = rows.rule.seed_words;
    if (rows.rule.need == Need::kSeed) {
      if (known != nullptr && known->run_diagonal == diagonal && at < known->run_end) return;
      if (!equal_run(row, place.word, text, at, seed)) return;
      uint32_t before = 0, length = seed;
      while (before < at && before < place.word &&
             equal(row, place.word - before - 1, text, at - before - 1)) {
        ++before;
      }
      while (at + length < num_text && place.word + length < num_row &&
             equal(row, place.word + length, text, at + length)) {
        ++length;
      }
      found.begin = at - before, found.end = at + length;
      found.row_begin = place.word - before, found.row_end = place.word + length;
      found.num_words = length + before;
      found.run_diagonal = diagonal, found.run_end = found.end;
      if (known != nullptr) known->run_diagonal = diagonal, known->run_end = found.end;
    } else {
      const int64_t slack = std::max<int64_t>(4, num_row / 8);
      const int64_t window = (diagonal - (diagonal < 0 ? slack - 1 : 0)) / slack;  // rounded down
      if (!equal_run(row, place.word, text, at, seed)) return;
      const uint64_t name = uint64_t{place.row} << 32 | static_cast<uint32_t>(window);
      if (!scratch.windows.insert(name).second) return;
      const auto first = static_cast<uint32_t>(std::max<int64_t>(0, (window - 1) * slack));
      const auto last =
          static_cast<uint32_t>(std::min<int64_t>(num_text, (window + 2) * slack + num_row));
      const double share = rows.rule.share * num_row;
      const Range range =
          tightest(row, *rows.rows[place.row].places, text, first, last, share, scratch.state);
      if (!(range.num_words > share)) return;
      const Words part = text.part(range.begin, range.end);
      const Range in_row =
          tightest(part, WordPlaces(part, false), row, 0, num_row, 0, scratch.state);
      found.num_words = range.num_words;
      found.begin = range.begin, found.end = range.end;
      found.row_begin = in_row.begin, found.row_end = in_row.end;
    }
  }
  if (known == nullptr) {
    scratch.found_of_row[place.row] = scratch.found.size();
    scratch.found.push_back(found);
  } else if (found.num_words > known->num_words) {
    *known = found;
  }
}

void Searcher::search_rule(const RuleRows& rows, const Words& text, Scratch& scratch) const {
  scratch.found.clear(), scratch.found_of_row.clear(), scratch.windows.clear();
  if (text.size() == 0) return;
  const bool whole = rows.rule.need == Need::kWhole;
  rows.seeds.scan(text, [&](uint32_t at, Place place) {
    take_seed(rows, text, at, place, whole, scratch);
  });
  rows.short_seeds.scan(text, [&](uint32_t at, Place place) {
    take_seed(rows, text, at, place, true, scratch);
  });
  if (!rows.whole_texts.empty() && text.size() < rows.rule.least_words) {
    const auto entry = rows.whole_texts.find(text.hashes()[0]);
    if (entry != rows.whole_texts.end()) {
      for (const uint32_t number : entry->second) {
        if (rows.rows[number].words.size() == text.size()) {
          take_seed(rows, text, 0, {number, 0}, true, scratch);
        }
      }
    }
  }
  std::sort(scratch.found.begin(), scratch.found.end(),
            [](const Found& a, const Found& b) { return a.row < b.row; });
}

void Searcher::search_text(const uint8_t* text, std::size_t num_bytes, int64_t number,
                           Scratch& scratch, std::vector<Hit>& hits) const {
  bool split[4] = {};
  uint32_t mapped_bytes[2] = {};
  bool mapped[2] = {};
  const auto words_of = [&](Splitting splitting) -> const Words& {
    const auto which = static_cast<std::size_t>(splitting);
    Words& found = scratch.by_splitting[which];
    if (split[which]) return found;
    split[which] = true;
    const bool chunks = splitting == Splitting::kChunks;
    std::vector<uint8_t>& characters = chunks ? scratch.chunks : scratch.letters;
    if (!mapped[chunks]) {
      mapped_bytes[chunks] =
          splitter_.characters(splitting).map(text, num_bytes, characters, nullptr);
      mapped[chunks] = true;
    }
    constexpr auto kMath = static_cast<std::size_t>(Splitting::kMath);
    constexpr auto kNumbers = static_cast<std::size_t>(Splitting::kNumbers);
    if (uses_[kMath] && uses_[kNumbers] && (which == kMath || which == kNumbers)) {
      split[kMath] = split[kNumbers] = true;
      splitter_.split_both(characters, mapped_bytes[0], scratch.by_splitting[kMath],
                           scratch.by_splitting[kNumbers]);
    } else {
      splitter_.split(splitting, characters, mapped_bytes[chunks], found);
    }
    return found;
  };
  for (std::size_t rule = 0; rule < rules_.size(); ++rule) {
    const RuleRows& rows = rules_[rule];
    const Splitting splitting = rows.rule.splitting;
    const Words& words = words_of(splitting);
    search_rule(rows, words, scratch);
    if (scratch.found.empty()) continue;
    std::vector<uint8_t> again;  // where characters come from is asked for where there are hits
    splitter_.characters(splitting).map(text, num_bytes, again, &scratch.origins);
    for (Found& found : scratch.found) {
      const Row& row = rows.rows[found.row];
      hits.push_back(
          {number, static_cast<uint32_t>(rule), found.row, found.num_words,
           static_cast<uint32_t>(row.words.size()),
           words::source_span(scratch.origins, words.begin(found.begin), words.end(found.end - 1)),
           words::source_span(row.origins, row.words.begin(found.row_begin),
                              row.words.end(found.row_end - 1))});
    }
  }
}

std::vector<Hit> Searcher::search(const texts::Flat& flat, int num_threads) const {
  if (!built_) throw std::invalid_argument("build the searcher before it searches");
  if (num_threads < 1) {
    throw std::invalid_argument("num_threads is " + std::to_string(num_threads));
  }
  flat.check("texts");
  std::vector<Scratch> scratch(static_cast<std::size_t>(num_threads));
  std::vector<std::vector<Hit>> found(static_cast<std::size_t>(num_threads));
  threads::for_each(flat.count, num_threads, kTextsAtATime, [&](int thread, int64_t i) {
    const auto own = static_cast<std::size_t>(thread);
    search_text(flat.text + flat.offsets[i],
                static_cast<std::size_t>(flat.offsets[i + 1] - flat.offsets[i]), i, scratch[own],
                found[own]);
  });
  std::vector<Hit> hits;
  for (const std::vector<Hit>& part : found) hits.insert(hits.end(), part.begin(), part.end());
  std::sort(hits.begin(), hits.end(), [](const Hit& a, const Hit& b) {
    return std::tie(a.text, a.rule, a.row) < std::tie(b.text, b.rule, b.row);
  });
  return hits;
}

}  // namespace row_search
