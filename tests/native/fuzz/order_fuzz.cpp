// Fuzz target of the order builders, the row writer and the .idx parser; built and run by run.py
// with ASan and UBSan. Each is compared with the plainest code that does the same, on memory of
// exactly its size.
//
// Without libFuzzer it drives itself: order_fuzz [seconds] [seed] [planted]. `planted` gives the
// row writer one token less than it is told of: the sanitizer must find that. With
// clang++ -fsanitize=fuzzer,address,undefined -DLIBFUZZER the fuzzer drives it.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "blend_order.h"
#include "concat_pieces.h"
#include "epoch.h"
#include "index_reader.h"
#include "keyed_permutation.h"
#include "pack_index.h"
#include "rows.h"

namespace {

using order::int128;

bool planted = false;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

// Numbers drawn from the input; 0 where it has ended.
class Input {
 public:
  Input(const uint8_t* data, std::size_t size) : data_(data), left_(size) {}

  uint64_t bits(int num_bytes) {
    uint64_t value = 0;
    for (; num_bytes > 0; --num_bytes) value = value << 8 | byte();
    return value;
  }
  // In [low, high], a few bytes for a small range.
  int64_t in(int64_t low, int64_t high) {
    const uint64_t size = static_cast<uint64_t>(high) - static_cast<uint64_t>(low) + 1;
    const uint64_t drawn = bits(size == 0 || size > 1 << 16 ? 8 : size > 256 ? 2 : 1);
    return static_cast<int64_t>(static_cast<uint64_t>(low) + (size == 0 ? drawn : drawn % size));
  }
  // Small, middling or any up to `high`.
  int64_t upto(int64_t high) {
    const int64_t most[] = {8, 300, 70'000, high};
    return in(0, std::min(high, most[in(0, 3)]));
  }
  bool coin() { return in(0, 1) == 1; }
  bool ended() const { return left_ == 0; }

 private:
  uint8_t byte() {
    if (left_ == 0) return 0;
    --left_;
    return *data_++;
  }
  const uint8_t* data_;
  std::size_t left_;
};

// A copy in memory of exactly its size, `shift` bytes off any alignment.
template <typename T>
class Exact {
 public:
  Exact(const std::vector<T>& values, std::size_t shift = 0)
      : bytes_(new char[values.size() * sizeof(T) + shift]), shift_(shift) {
    const std::size_t num_bytes = values.size() * sizeof(T);
    if (num_bytes > 0) std::memcpy(bytes_.get() + shift, values.data(), num_bytes);
  }
  const char* bytes() const { return bytes_.get() + shift_; }

 private:
  std::unique_ptr<char[]> bytes_;
  std::size_t shift_;
};

template <typename Work>
bool refused(Work work) {
  try {
    work();
    return false;
  } catch (const std::invalid_argument& error) {
    require(error.what()[0] != '\0', "a refusal says why");
    return true;
  }
}

// --- the .idx parser -----------------------------------------------------------------------------

void check_index_header(Input& input) {
  const uint64_t num_documents = input.coin() ? input.upto(1 << 20) : input.bits(8);
  const uint64_t num_boundaries = input.coin() ? num_documents + 1 : input.bits(8);
  std::vector<char> header(order::kIndexMagic, order::kIndexMagic + 9);
  const auto append = [&](uint64_t value, int num_bytes) {
    for (int i = 0; i < num_bytes; ++i) header.push_back(static_cast<char>(value >> (8 * i)));
  };
  append(input.in(0, 5) ? 1 : input.bits(8), 8);
  append(input.in(0, 9), 1);
  append(num_documents, 8);
  append(num_boundaries, 8);
  if (input.in(0, 3) == 0) header[input.in(0, 33)] ^= static_cast<char>(1 << input.in(0, 7));
  if (input.in(0, 3) == 0) header.resize(input.in(0, 34));
  const uint64_t size = 34 + 12 * num_documents + 8 * num_boundaries + input.in(-1, 1);
  const int64_t idx_bytes = static_cast<int64_t>(size), bin_bytes = input.in(-4, 1 << 20);
  const Exact<char> exact(header);
  refused([&] {
    const order::IndexFacts facts = order::parse_index_header(
        exact.bytes(), static_cast<int64_t>(header.size()), idx_bytes, bin_bytes);
    const int128 end = int128{facts.boundaries_at} + int128{8} * facts.num_boundaries;
    require(facts.num_documents >= 0 && facts.num_boundaries >= 0 && facts.lengths_at == 34 &&
                facts.pointers_at == 34 + int128{4} * facts.num_documents &&
                facts.boundaries_at == facts.pointers_at + int128{8} * facts.num_documents &&
                (facts.modes_at < 0 ? end == idx_bytes
                                    : end == facts.modes_at &&
                                          end + facts.num_documents == idx_bytes),
            "sections fill the .idx");
    require(facts.item_bytes > 0 && bin_bytes % facts.item_bytes == 0, "whole tokens");
  });
}

void check_index_documents(Input& input) {
  const int64_t count = input.upto(200), item_bytes = 1 << input.in(0, 3);
  const int64_t begin = input.coin() ? 0 : input.upto(int64_t{1} << 40);
  std::vector<int32_t> lengths(count);
  std::vector<int64_t> pointers(count);
  int64_t end = begin;
  for (int64_t i = 0; i < count; ++i) {
    lengths[i] = static_cast<int32_t>(input.upto(INT32_MAX));
    pointers[i] = end;
    end += lengths[i] * item_bytes;
  }
  int64_t bin_bytes = end;
  if (count > 0 && input.coin()) {
    const int64_t i = input.in(0, count - 1);
    switch (input.in(0, 2)) {
      case 0: lengths[i] = static_cast<int32_t>(input.bits(4)); break;
      case 1: pointers[i] = static_cast<int64_t>(input.bits(8)); break;
      default: bin_bytes -= input.in(1, 9);
    }
  }
  bool right = begin <= bin_bytes;
  int128 at = begin;
  for (int64_t i = 0; i < count; ++i) {
    right = right && lengths[i] >= 0 && pointers[i] == at;
    at += int128{lengths[i]} * item_bytes;
    right = right && at <= bin_bytes;
  }
  const Exact<int32_t> length_bytes(lengths, 2);
  const Exact<int64_t> pointer_bytes(pointers, 2);
  const bool was_refused = refused([&] {
    const auto checked = order::check_documents(length_bytes.bytes(), pointer_bytes.bytes(), count,
                                                0, begin, item_bytes, bin_bytes);
    require(checked.end == at, "the end of the last document");
  });
  require(was_refused != right, "documents are refused where they are wrong, and only there");
}

// --- permutation and epochs ----------------------------------------------------------------------

void check_permutation(Input& input) {
  const uint64_t key = input.bits(8);
  const int64_t num_items = 1 + input.upto((int64_t{1} << 62) - 1);
  const int64_t count = std::min(num_items, input.upto(1000));
  const int64_t first = input.in(0, num_items - count);
  std::vector<int64_t> images(count);
  order::permute(key, num_items, first, count, images.data());
  require(std::set<int64_t>(images.begin(), images.end()).size() == images.size(), "one to one");
  for (const int64_t image : images) require(image >= 0 && image < num_items, "inside");
  const order::KeyedPermutation permutation(key, num_items);
  for (int64_t i = 0; i < count; ++i) {
    int64_t point = first + i;
    permutation.map(&point, 1);
    require(point == images[i], "one by one as in batches");
    permutation.unmap(&point, 1);
    require(point == first + i, "the inverse");
  }
  require(refused([&] { order::permute(key, num_items, num_items - count + 1, count, nullptr); }),
          "positions behind the end");
}

void check_epoch(Input& input) {
  const int64_t num_documents = 1 + input.upto(3000);
  std::vector<int32_t> lengths(num_documents);
  for (int32_t& length : lengths) length = static_cast<int32_t>(input.upto(INT32_MAX));
  const bool is_damaged = input.in(0, 5) == 0;
  if (is_damaged) lengths[input.in(0, num_documents - 1)] = -1;
  const Exact<int32_t> exact(lengths, 2);
  const int64_t num_held_out = input.in(0, num_documents - 1);
  const uint64_t split_key = input.bits(8), epoch_key = input.bits(8);
  const order::EpochDocuments epoch(exact.bytes(), num_documents, split_key, epoch_key,
                                    num_held_out);
  const int64_t num_positions = epoch.num_positions();
  const int64_t step = 1 + input.upto(4000), align = 1 + input.upto(int64_t{1} << 30);
  const int64_t num_segments = (num_positions - 1) / step + 1;
  const int64_t first = input.in(0, num_segments), count = input.in(0, num_segments - first);
  std::vector<int64_t> documents(num_positions), tokens(num_positions);
  const bool was_refused = refused([&] {
    epoch.read(0, num_positions, documents.data(), tokens.data());
    const std::vector<int64_t> totals = order::segment_totals(epoch, align, step, first, count);
    const std::vector<int64_t> all =
        order::document_totals(exact.bytes(), 0, num_documents, num_documents, split_key, epoch_key,
                               num_held_out, align, step);
    require(std::equal(totals.begin(), totals.end(), all.begin() + 2 * first), "by document");
    for (int64_t s = 0; s < count; ++s) {
      int64_t sum = 0, slots = 0;
      for (int64_t p = (first + s) * step; p < std::min(num_positions, (first + s + 1) * step);
           ++p) {
        require(tokens[p] == lengths[documents[p]], "the document's length");
        sum += tokens[p];
        slots += (tokens[p] + align - 1) / align * align;
      }
      require(totals[2 * s] == sum && totals[2 * s + 1] == slots, "a segment's totals");
    }
  });
  require(!was_refused || is_damaged, "a good epoch is read");
}

// --- packing -------------------------------------------------------------------------------------

struct PlainBin {
  int64_t room;
  std::vector<std::vector<int64_t>> pieces;
};

void check_packs(Input& input) {
  const int64_t align = 1 + input.upto(64);
  const int64_t sequence_length = align * (1 + input.upto((int64_t{1} << 31) / align - 1));
  const int64_t window = input.in(1, 64), count = input.upto(400);
  const int64_t longest = input.coin() ? sequence_length / 4 + 1 : 3 * sequence_length;
  std::vector<int64_t> lengths(count);
  for (int64_t& length : lengths) {
    length = 1 + (input.coin() ? input.upto(longest) : input.in(0, longest));
    length = std::min(length, 400 * sequence_length);
  }
  std::vector<std::vector<std::vector<int64_t>>> expected;
  std::vector<PlainBin> open;
  const auto close = [&](std::size_t bin) {
    expected.push_back(open[bin].pieces);
    open.erase(open.begin() + static_cast<std::ptrdiff_t>(bin));
  };
  for (int64_t i = 0; i < count; ++i) {
    const int64_t tail = lengths[i] % sequence_length;
    for (int64_t start = 0; start < lengths[i] - tail; start += sequence_length) {
      expected.push_back({{i, start, sequence_length}});
    }
    if (tail == 0) continue;
    const int64_t slots = (tail + align - 1) / align * align;
    std::size_t best = open.size(), fullest = 0;
    for (std::size_t bin = 0; bin < open.size(); ++bin) {
      if (open[bin].room < open[fullest].room) fullest = bin;
      if (open[bin].room < slots) continue;
      if (best == open.size() || open[bin].room < open[best].room) best = bin;
    }
    if (best == open.size()) {
      if (static_cast<int64_t>(open.size()) == window) close(fullest);
      open.push_back({sequence_length, {}});
      best = open.size() - 1;
    }
    open[best].pieces.push_back({i, lengths[i] - tail, tail});
    open[best].room -= slots;
    if (open[best].room == 0) close(best);
  }
  while (!open.empty()) close(0);
  const order::Packs packs =
      order::pack_index(lengths.data(), count, sequence_length, align, window);
  require(packs.starts.size() == expected.size() + 1, "as many packs");
  int64_t piece = 0;
  for (std::size_t p = 0; p < expected.size(); ++p) {
    require(packs.starts[p] == piece, "where a pack begins");
    for (const auto& row : expected[p]) {
      require(std::equal(row.begin(), row.end(), packs.pieces.get() + 3 * piece++), "a piece");
    }
  }
  require(packs.starts.back() == piece && packs.num_pieces == piece, "as many pieces");
}

// --- blend order ---------------------------------------------------------------------------------

// The rule of blend_order.h with nothing carried: all sources, all divisions, at every sample.
std::vector<int32_t> plain_blend(const order::Targets& targets,
                                 const std::vector<std::vector<int64_t>>& sizes,
                                 const std::vector<bool>& more, int64_t sequence_length,
                                 int64_t max_tokens, std::vector<int64_t>& given) {
  const int64_t num_sources = targets.num_sources();
  std::vector<std::size_t> taken(num_sources, 0);
  std::vector<int32_t> result;
  int64_t total = 0;
  for (const int64_t tokens : given) total += tokens;
  while (total < max_tokens) {
    int64_t best = -1;
    bool is_any_left = false;
    for (int64_t j = 0; j < num_sources; ++j) {
      if (taken[j] == sizes[j].size()) {
        if (more[j]) return result;
        continue;
      }
      is_any_left = true;
      const int64_t size = sizes[j][taken[j]];
      if (total < targets.release(j, given[j]) - size + 1) continue;
      if (best < 0) {
        best = j;
        continue;
      }
      const auto one = targets.deadline(j, given[j] + sequence_length);
      const auto two = targets.deadline(best, given[best] + sequence_length);
      const int128 whole_one = targets.whole_deadline(j, given[j] + sequence_length);
      const int128 whole_two = targets.whole_deadline(best, given[best] + sequence_length);
      if (whole_one != whole_two
              ? whole_one < whole_two
              : int128{one.rest} * two.over < int128{two.rest} * one.over) {
        best = j;
      }
    }
    if (!is_any_left) return result;
    if (best < 0) throw std::invalid_argument("no source is due");
    const int64_t size = sizes[best][taken[best]++];
    given[best] += size;
    total += size;
    result.push_back(static_cast<int32_t>(best));
  }
  return result;
}

void check_blend(Input& input) {
  const int64_t num_sources = 1 + input.upto(90);
  const int64_t sequence_length = 1 + input.upto((int64_t{1} << 31) - 1);
  const int64_t lowest = input.coin() ? sequence_length : 1;
  const int64_t most_share = (int64_t{1} << 62) / num_sources;
  const bool are_equal = input.in(0, 3) == 0, bends = input.coin();
  std::vector<int64_t> starts{0}, bases(num_sources, 0), shares(num_sources), given(num_sources, 0);
  std::vector<std::vector<int64_t>> sizes(num_sources);
  std::vector<bool> more(num_sources, true);
  const int64_t share = 1 + input.upto(most_share - 1);
  for (int64_t j = 0; j < num_sources; ++j) {
    shares[j] = are_equal ? share : 1 + input.upto(most_share - 1);
    sizes[j].resize(input.in(0, 40));
    for (int64_t& size : sizes[j]) size = input.in(lowest, sequence_length);
  }
  if (bends) {
    int64_t sum = 0;
    for (int64_t j = 0; j < num_sources; ++j) {
      int64_t tokens = 0;
      for (const int64_t size : sizes[j]) tokens += size;
      if (j > 0 && input.in(0, 2) == 0) {
        shares[j] = 0;
        more[j] = false;
      } else {
        tokens = input.upto(int64_t{1} << 40);
      }
      bases.push_back(tokens);
      sum += tokens;
    }
    starts.push_back(sum);
    if (sum == 0) return;
  }
  if (input.in(0, 4) == 0) {  // a start that may be no prefix of the order
    for (int64_t j = 0; j < num_sources; ++j) {
      if (more[j]) given[j] = input.upto(int64_t{1} << 50);
    }
  }
  const int64_t max_tokens = input.coin() ? order::kMaxTokens : input.upto(int64_t{1} << 45);
  const order::Targets targets(starts, bases, shares);
  std::vector<int64_t> expected_given = given;
  std::vector<int32_t> expected;
  const bool is_refused = refused([&] {
    expected = plain_blend(targets, sizes, more, sequence_length, max_tokens, expected_given);
  });
  const int64_t chunk = input.in(1, 50), room = input.in(1, 300);
  for (const int64_t most_scanned : {int64_t{0}, order::kMostScanned}) {
    order::BlendOrder blend(targets, sequence_length, given, most_scanned);
    std::vector<std::size_t> fed(num_sources, 0);
    std::vector<int64_t> num_chosen(num_sources, 0);
    std::vector<int32_t> found;
    const bool was_refused = refused([&] {
      for (;;) {
        for (const int32_t j : std::vector<int32_t>(blend.waiting())) {
          const std::size_t count = std::min<std::size_t>(chunk, sizes[j].size() - fed[j]);
          const bool others = more[j] || fed[j] + count < sizes[j].size();
          blend.feed(j, sizes[j].data() + fed[j], static_cast<int64_t>(count), 1, others);
          fed[j] += count;
        }
        std::vector<int32_t> stretch(room);
        std::vector<int64_t> numbers(room);
        const bool counts = room % 2 == 0;
        const int64_t count =
            blend.choose(stretch.data(), counts ? numbers.data() : nullptr, room, max_tokens);
        if (count == 0) break;
        for (int64_t i = 0; i < count; ++i) {
          const int64_t number = num_chosen[stretch[i]]++;
          require(!counts || numbers[i] == number, "the sample's number within its source");
        }
        found.insert(found.end(), stretch.begin(), stretch.begin() + count);
      }
    });
    require(was_refused == is_refused, "refused as the plain order is");
    if (is_refused) continue;
    require(found == expected, "the plain order");
    for (int64_t j = 0; j < num_sources; ++j) {
      require(blend.given(j) == expected_given[j], "what a source has given");
    }
  }
}

// --- pieces of samples ---------------------------------------------------------------------------

// Slot by slot: (document, place in it) or padding (-1, -1).
std::vector<std::pair<int64_t, int64_t>> laid_slots(const order::ConcatStream& stream,
                                                    int64_t epochs,
                                                    std::vector<int64_t>& slots_before) {
  std::vector<std::pair<int64_t, int64_t>> slots;
  const int64_t num_positions = stream.num_documents - stream.num_held_out;
  const int64_t step = std::min(stream.segment_documents, num_positions);
  std::vector<int64_t> documents(num_positions), tokens(num_positions);
  slots_before.assign(1, 0);
  for (int64_t e = 0; e < epochs; ++e) {
    const order::EpochDocuments epoch(stream.lengths, stream.num_documents, stream.split_key,
                                      stream.epoch_keys[e], stream.num_held_out);
    epoch.read(0, num_positions, documents.data(), tokens.data());
    const int64_t begin = e == 0 ? stream.start_position : 0;
    for (int64_t p = begin; p < num_positions; ++p) {
      for (int64_t t = 0; t < tokens[p]; ++t) slots.emplace_back(documents[p], t);
      while (slots.size() % stream.align != 0) slots.emplace_back(-1, -1);
      if ((p + 1 - begin) % step == 0 || p + 1 == num_positions) {
        slots_before.push_back(static_cast<int64_t>(slots.size()));
      }
    }
  }
  return slots;
}

void check_concat_pieces(Input& input) {
  const int64_t num_documents = input.in(1, 40), epochs = input.in(1, 3);
  std::vector<int32_t> lengths(num_documents);
  for (int32_t& length : lengths) length = static_cast<int32_t>(input.in(0, 30));
  const Exact<int32_t> exact(lengths, 2);
  std::vector<uint64_t> keys(epochs);
  for (uint64_t& key : keys) key = input.bits(8);
  const int64_t num_held_out = input.in(0, num_documents - 1), align = input.in(1, 5);
  const int64_t sequence_length = align * input.in(1, 12);
  order::ConcatStream stream{exact.bytes(), num_documents, input.bits(8), num_held_out,
                             keys.data(), epochs, input.in(0, 1000),
                             input.in(0, num_documents - num_held_out), input.in(1, 50), align,
                             nullptr, 0};
  std::vector<int64_t> slots_before;
  const auto slots = laid_slots(stream, epochs, slots_before);
  if (input.in(0, 7) == 0) {  // a table, or numbers, of something else
    for (int64_t i = input.in(0, 3); i > 0; --i) {
      slots_before[input.in(0, static_cast<int64_t>(slots_before.size()) - 1)] = input.upto(500);
    }
    if (input.coin()) stream.num_epochs = input.in(0, epochs);
    if (input.coin()) stream.start_position = input.in(-2, 60);
    if (input.coin()) stream.segment_documents = input.in(-1, 1 << 21);
    if (input.coin()) stream.num_held_out = input.in(-2, 60);
    stream.slots_before = slots_before.data();
    stream.num_rows = static_cast<int64_t>(slots_before.size()) - 1;
    const int64_t samples[] = {input.upto(100), input.in(INT64_MIN, INT64_MAX)};
    refused([&] { order::concat_pieces(stream, sequence_length, samples, input.in(1, 2)); });
    return;
  }
  stream.slots_before = slots_before.data();
  stream.num_rows = static_cast<int64_t>(slots_before.size()) - 1;
  const int64_t num_slots = static_cast<int64_t>(slots.size());
  const int64_t num_samples = (num_slots + sequence_length - 1) / sequence_length;
  std::vector<int64_t> samples(num_samples > 0 ? input.in(0, 5) : 0);
  for (int64_t& sample : samples) sample = input.in(0, num_samples - 1);
  const order::Pieces found = order::concat_pieces(stream, sequence_length, samples.data(),
                                                   static_cast<int64_t>(samples.size()));
  require(found.starts.size() == samples.size() + 1 && found.starts[0] == 0, "a start a sample");
  for (std::size_t i = 0; i < samples.size(); ++i) {
    int64_t slot = samples[i] * sequence_length;
    const int64_t stop = std::min(slot + sequence_length + 1, num_slots);
    for (int64_t p = found.starts[i]; p < found.starts[i + 1]; ++p) {
      const int64_t* const piece = found.rows.data() + 5 * p;
      require(slot + piece[2] + piece[3] <= stop && piece[2] > 0, "pieces inside their sample");
      for (int64_t t = 0; t < piece[2]; ++t, ++slot) {
        require(slots[slot] == std::make_pair(piece[0], piece[1] + t), "the token of the slot");
      }
      for (int64_t t = 0; t < piece[3]; ++t, ++slot) {
        require(slots[slot].first == -1, "padding where there is padding");
      }
      require(piece[4] >= stream.first_epoch && piece[4] < stream.first_epoch + epochs, "epoch");
    }
    require(slot == stop, "all slots of a sample");
  }
}

// --- rows ----------------------------------------------------------------------------------------

template <typename Token>
void check_rows(Input& input) {
  const int64_t num_tokens = input.upto(400), sequence_length = 1 + input.upto(100);
  const int64_t num_rows = input.in(0, 4);
  std::vector<Token> tokens(num_tokens);
  for (Token& token : tokens) token = static_cast<Token>(input.bits(2));
  std::vector<uint8_t> roles(num_tokens), counts(256);
  for (uint8_t& role : roles) role = static_cast<uint8_t>(input.in(0, 3));
  for (int i = 0; i < 4; ++i) counts[i] = input.coin();
  const bool by_role = input.coin(), wild = input.in(0, 3) == 0;
  std::vector<int64_t> pieces, starts{0};
  for (int64_t b = 0; b < num_rows; ++b) {
    int64_t left = sequence_length + 1;
    for (int64_t count = input.in(0, 7); count > 0; --count) {
      const int64_t length = input.in(0, std::min(left, num_tokens));
      pieces.insert(pieces.end(), {input.in(0, num_tokens - length), length, input.in(0, 5)});
      left -= length;
      left -= std::min(left, pieces.back());
    }
    starts.push_back(static_cast<int64_t>(pieces.size()) / 3);
  }
  if (wild && !pieces.empty()) {
    pieces[input.in(0, static_cast<int64_t>(pieces.size()) - 1)] = input.in(INT64_MIN, INT64_MAX);
  }
  if (wild && input.coin()) starts[input.in(0, num_rows)] = input.in(-2, 40);
  std::vector<Token> there = tokens;
  if (planted && num_tokens > 0) there.pop_back();
  const Exact<Token> exact(there, input.in(0, 1));
  const order::Corpus corpus{exact.bytes(), by_role ? roles.data() : nullptr,
                             by_role ? counts.data() : nullptr};
  const order::RowPieces row_pieces{pieces.data(), static_cast<int64_t>(pieces.size()) / 3,
                                    starts.data(), num_rows};
  const order::RowLayout layout{sequence_length, input.in(-1, 70'000), input.coin()};
  const bool was_refused = refused(
      [&] { order::check_row_pieces(row_pieces, num_tokens, sequence_length); });
  require(!was_refused || wild, "good pieces are taken");
  if (was_refused) return;
  order::RowWriter<Token> writer(corpus, layout);
  for (int64_t b = 0; b < num_rows; ++b) {
    const std::size_t length = static_cast<std::size_t>(sequence_length);
    std::vector<int64_t> inputs(length), labels(length), positions(length);
    std::vector<float> mask(length);
    std::vector<int32_t> ids(length);
    writer.write(pieces.data() + 3 * starts[b], starts[b + 1] - starts[b],
                 {inputs.data(), labels.data(), mask.data(), ids.data(), positions.data()});
    // Slot by slot: the place in the corpus (-1: padding), the run, and where the run began.
    std::vector<int64_t> source, run, begins;
    int64_t num_runs = 0;
    const auto lay = [&](int64_t count, int64_t first) {
      const int64_t begin = static_cast<int64_t>(source.size());
      for (int64_t i = 0; i < count; ++i) {
        source.push_back(first < 0 ? -1 : first + i);
        run.push_back(num_runs);
        begins.push_back(begin);
      }
      num_runs += count > 0;
    };
    const auto left = [&] { return sequence_length + 1 - static_cast<int64_t>(source.size()); };
    for (int64_t p = starts[b]; p < starts[b + 1]; ++p) {
      lay(pieces[3 * p + 1], pieces[3 * p]);
      lay(std::min(pieces[3 * p + 2], left()), -1);
    }
    lay(left(), -1);
    const auto token = [&](std::size_t s) {
      return source[s] < 0 ? layout.pad_id : static_cast<int64_t>(tokens[source[s]]);
    };
    const auto id = [&](std::size_t s) {
      return !layout.attend_across ? run[s] : source[s] < 0 ? run[s] + 1 : 0;
    };
    for (std::size_t s = 0; s < length; ++s) {
      const bool follows = source[s] >= 0 && source[s + 1] >= 0 && id(s) == id(s + 1);
      const bool counted = follows && (!by_role || counts[roles[source[s + 1]]]);
      const int64_t position = static_cast<int64_t>(s) - (layout.attend_across ? 0 : begins[s]);
      require(inputs[s] == token(s) && labels[s] == token(s + 1), "a token and its label");
      require(mask[s] == (counted ? 1.0f : 0.0f), "a label that counts");
      require(ids[s] == id(s) && positions[s] == position, "a document and a position");
    }
  }
}

void check(const uint8_t* data, std::size_t size) {
  Input input(data, size);
  if (planted) return check_rows<uint16_t>(input);
  switch (input.in(0, 9)) {
    case 0: return check_index_header(input);
    case 1: return check_index_documents(input);
    case 2: return check_permutation(input);
    case 3: return check_epoch(input);
    case 4: return check_packs(input);
    case 5: return check_rows<uint16_t>(input);
    case 6: return check_rows<int32_t>(input);
    case 7: return check_concat_pieces(input);
    default: return check_blend(input);
  }
}

}  // namespace

#ifdef LIBFUZZER
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  check(data, size);
  return 0;
}
#else
int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 10;
  std::mt19937_64 random(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  planted = argc > 3 && std::string(argv[3]) == "planted";
  const auto started = std::chrono::steady_clock::now();
  int64_t num_inputs = 0;
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count() <
         seconds) {
    std::vector<uint8_t> bytes(random() % (num_inputs % 16 ? 600 : 20'000));
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    check(bytes.data(), bytes.size());
    ++num_inputs;
  }
  std::printf("%lld inputs, nothing found\n", static_cast<long long>(num_inputs));
  return 0;
}
#endif
