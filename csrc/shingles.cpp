#include "shingles.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "threads.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WIDE_AS_THE_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE_AS_THE_PROCESSOR
#endif

namespace shingles {

namespace {

constexpr uint64_t kBase = 0x9FB21C651E98DF25u;
constexpr std::size_t kTogether = 8;
constexpr int64_t kTextsAtATime = 16;
constexpr uint32_t kMostPermutations = 4096;

uint64_t mix(uint64_t x) {
  x ^= x >> 32;
  x *= 0xD6E8FEB86659FD93u;
  x ^= x >> 32;
  x *= 0xD6E8FEB86659FD93u;
  return x ^ x >> 32;
}

// minima[i] = min(minima[i], factors[i] * values[j] + terms[i]) for eight values j.
WIDE_AS_THE_PROCESSOR
void take_minima(const uint32_t* values, const uint32_t* factors, const uint32_t* terms,
                 uint32_t* minima, std::size_t count) {
  const uint32_t v0 = values[0], v1 = values[1], v2 = values[2], v3 = values[3];
  const uint32_t v4 = values[4], v5 = values[5], v6 = values[6], v7 = values[7];
  for (std::size_t i = 0; i < count; ++i) {
    const uint32_t f = factors[i], t = terms[i];
    const uint32_t a = std::min(std::min(f * v0 + t, f * v1 + t), std::min(f * v2 + t, f * v3 + t));
    const uint32_t b = std::min(std::min(f * v4 + t, f * v5 + t), std::min(f * v6 + t, f * v7 + t));
    minima[i] = std::min(minima[i], std::min(a, b));
  }
}

}  // namespace

Hasher::Hasher(const words::Splitter& splitter, uint32_t shingle_words, uint32_t num_bands,
               uint32_t band_rows, uint64_t seed)
    : splitter_(splitter),
      shingle_words_(shingle_words),
      num_bands_(num_bands),
      band_rows_(band_rows) {
  if (shingle_words < 1 || num_bands < 1 || band_rows < 1 ||
      uint64_t{num_bands} * band_rows > kMostPermutations) {
    throw std::invalid_argument(
        "shingles of " + std::to_string(shingle_words) + " words and " + std::to_string(num_bands) +
        " bands of " + std::to_string(band_rows) + " permutations; each is 1 at least, and " +
        std::to_string(kMostPermutations) + " permutations are possible");
  }
  for (uint32_t i = 0; i < num_bands * band_rows; ++i) {
    const uint64_t drawn = mix(seed + mix(i + 1));
    factors_.push_back(static_cast<uint32_t>(drawn) | 1);
    terms_.push_back(static_cast<uint32_t>(drawn >> 32));
  }
}

std::size_t Hasher::shingles_of(const uint8_t* text, std::size_t num_bytes,
                                std::vector<uint8_t>& mapped, words::Words& words,
                                std::vector<uint64_t>& found) const {
  constexpr auto kPlain = words::Splitting::kPlain;
  const uint32_t mapped_bytes = splitter_.characters(kPlain).map(text, num_bytes, mapped, nullptr);
  splitter_.split(kPlain, mapped, mapped_bytes, words);
  found.clear();
  const std::size_t length = std::min<std::size_t>(shingle_words_, words.size());
  if (length == 0) return 0;
  uint64_t leaving = 1, key = 0;
  for (std::size_t i = 1; i < length; ++i) leaving *= kBase;
  for (std::size_t i = 0; i < words.size(); ++i) {
    key = key * kBase + words.hashes()[i];
    if (i + 1 < length) continue;
    found.push_back(mix(key));
    key -= words.hashes()[i + 1 - length] * leaving;
  }
  return words.size();
}

void Hasher::bands(const texts::Flat& flat, int num_threads, uint64_t* bands,
                   int64_t* num_words) const {
  struct Scratch {
    std::vector<uint8_t> mapped;
    words::Words words;
    std::vector<uint64_t> found;
    std::vector<uint32_t> minima;
  };
  std::vector<Scratch> scratch(static_cast<std::size_t>(num_threads));
  threads::for_each(flat.count, num_threads, kTextsAtATime, [&](int thread, int64_t i) {
    Scratch& own = scratch[static_cast<std::size_t>(thread)];
    num_words[i] = static_cast<int64_t>(
        shingles_of(flat.text + flat.offsets[i],
                    static_cast<std::size_t>(flat.offsets[i + 1] - flat.offsets[i]), own.mapped,
                    own.words, own.found));
    own.minima.assign(factors_.size(), ~uint32_t{0});
    uint32_t together[kTogether];
    for (std::size_t k = 0; k < own.found.size(); k += kTogether) {
      for (std::size_t j = 0; j < kTogether; ++j) {  // the last one stands in for what is missing
        together[j] = static_cast<uint32_t>(own.found[std::min(k + j, own.found.size() - 1)] >> 32);
      }
      take_minima(together, factors_.data(), terms_.data(), own.minima.data(), factors_.size());
    }
    for (uint32_t band = 0; band < num_bands_; ++band) {
      uint64_t key = mix(band + 1);
      for (uint32_t row = 0; row < band_rows_; ++row) {
        key = mix(key ^ own.minima[band * band_rows_ + row]);
      }
      bands[i * num_bands_ + band] = key;
    }
  });
}

void Hasher::jaccard(const texts::Flat& flat, const int64_t* first, const int64_t* second,
                     int64_t count, int num_threads, double* index) const {
  std::vector<std::vector<uint64_t>> sets(static_cast<std::size_t>(flat.count));
  std::vector<std::vector<uint8_t>> mapped(static_cast<std::size_t>(num_threads));
  std::vector<words::Words> words(static_cast<std::size_t>(num_threads));
  threads::for_each(flat.count, num_threads, kTextsAtATime, [&](int thread, int64_t i) {
    const auto own = static_cast<std::size_t>(thread);
    std::vector<uint64_t>& set = sets[static_cast<std::size_t>(i)];
    shingles_of(flat.text + flat.offsets[i],
                static_cast<std::size_t>(flat.offsets[i + 1] - flat.offsets[i]), mapped[own],
                words[own], set);
    std::sort(set.begin(), set.end());
    set.erase(std::unique(set.begin(), set.end()), set.end());
  });
  threads::for_each(count, num_threads, 256, [&](int, int64_t i) {
    const auto& a = sets[static_cast<std::size_t>(first[i])];
    const auto& b = sets[static_cast<std::size_t>(second[i])];
    std::size_t shared = 0;
    for (auto p = a.begin(), q = b.begin(); p != a.end() && q != b.end();) {
      shared += *p == *q;
      const bool next_p = *p <= *q, next_q = *q <= *p;
      p += next_p, q += next_q;
    }
    const std::size_t either = a.size() + b.size() - shared;
    index[i] = either == 0 ? 0.0 : static_cast<double>(shared) / static_cast<double>(either);
  });
}

}  // namespace shingles
