#include "pack_index.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <utility>

#include "limits.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

namespace order {

namespace {

// Open bins stand in the order of their opening, and keys[place] is the bin's room << 6 | place; a
// place behind the last bin has no room. The least key - (slots << 6) that is not negative names
// the fullest bin with room for the slots, the oldest of several. Negative ones wrap to kTooSmall
// or beyond, which needs rooms below 2^25 in 32 bits.
template <typename Key>
constexpr Key kTooSmall = Key{1} << (8 * sizeof(Key) - 1);
template <typename Key>
using Keys = std::array<Key, kMostOpenBins>;

// Takes `taken` (slots << 6) of the fullest bin that has them. Its new key, or one too small.
template <typename Key>
Key take(Keys<Key>& keys, int64_t num_open, Key taken) {
  Key least = ~Key{0};
  for (int64_t place = 0; place < num_open; ++place) {
    least = std::min(least, static_cast<Key>(keys[place] - taken));
  }
  if (least < kTooSmall<Key>) keys[least & 63] = least;
  return least;
}

#if defined(__x86_64__) && defined(__GNUC__)
// The same, eight bins at a time. A key is written with its eight, since a narrow write would hold
// up the wide read of it that follows at once.
__attribute__((target("avx2"))) uint32_t take_avx2(Keys<uint32_t>& keys, int64_t,
                                                   uint32_t taken) {
  const __m256i takens = _mm256_set1_epi32(static_cast<int>(taken));
  auto* const eights = reinterpret_cast<__m256i*>(keys.data());
  __m256i least = _mm256_sub_epi32(_mm256_loadu_si256(eights), takens), other = least;
  for (int i = 0; i < kMostOpenBins / 8; i += 2) {
    least = _mm256_min_epu32(least, _mm256_sub_epi32(_mm256_loadu_si256(eights + i), takens));
    other = _mm256_min_epu32(other, _mm256_sub_epi32(_mm256_loadu_si256(eights + i + 1), takens));
  }
  least = _mm256_min_epu32(least, other);
  __m128i four = _mm_min_epu32(_mm256_castsi256_si128(least), _mm256_extracti128_si256(least, 1));
  four = _mm_min_epu32(four, _mm_shuffle_epi32(four, 0x4E));
  four = _mm_min_epu32(four, _mm_shuffle_epi32(four, 0xB1));
  const uint32_t key = static_cast<uint32_t>(_mm_cvtsi128_si32(four));
  if (key >= kTooSmall<uint32_t>) return key;
  __m256i* const eight = eights + (key >> 3 & 7);
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i here = _mm256_cmpeq_epi32(lanes, _mm256_set1_epi32(static_cast<int>(key & 7)));
  const __m256i before = _mm256_loadu_si256(eight), after = _mm256_broadcastd_epi32(four);
  _mm256_storeu_si256(eight, _mm256_blendv_epi8(before, after, here));
  return key;
}

const auto kTake = __builtin_cpu_supports("avx2") ? take_avx2 : take<uint32_t>;
#else
const auto kTake = take<uint32_t>;
#endif

template <typename Key>
class Packer {
 public:
  // Room for `num_pieces` pieces, exactly as many as the documents make.
  Packer(const int64_t* lengths, int64_t sequence_length, int64_t align, int64_t window,
         int64_t num_pieces)
      : lengths_(lengths), capacity_(sequence_length), align_(align), window_(window) {
    result_.pieces.reset(new int64_t[3 * num_pieces]);
    result_.starts.push_back(0);
    for (std::size_t bin = 0; bin < bins_.size(); ++bin) free_[bin] = static_cast<uint8_t>(bin);
  }

  void add_document(int64_t position) {
    const int64_t length = lengths_[position], tail = tail_of(length);
    for (int64_t start = 0; start < length - tail; start += capacity_) {
      write(position, start, capacity_);
      result_.starts.push_back(result_.num_pieces);
    }
    if (tail > 0) place(position, tail);
  }

  // Closes what is open, oldest bin first.
  Packs finish() {
    while (num_open_ > 0) close(0);
    return std::move(result_);
  }

 private:
  int64_t tail_of(int64_t length) const {
    return length < capacity_ ? length : length % capacity_;
  }

  void place(int64_t position, int64_t tail) {
    const int64_t slots = align_ == 1 ? tail : (tail + align_ - 1) / align_ * align_;
    const Key taken = static_cast<Key>(slots) << 6;
    Key key = take_from(taken);
    if (key >= kTooSmall<Key>) {
      // The fullest is closed: each has room for 1, whatever it has for the slots.
      if (num_open_ == window_) close(take_from(Key{1} << 6) & 63);
      open_bin();
      key = keys_[num_open_ - 1] -= taken;
    }
    const int64_t place = key & 63;
    bins_[holders_[place]].push_back(position);
    if (key >> 6 == 0) close(place);
  }

  Key take_from(Key taken) {
    if constexpr (sizeof(Key) == 4) {
      return kTake(keys_, num_open_, taken);
    } else {
      return take(keys_, num_open_, taken);
    }
  }

  void open_bin() {
    keys_[num_open_] = static_cast<Key>(capacity_) << 6 | static_cast<Key>(num_open_);
    holders_[num_open_++] = free_[--num_free_];
  }

  void close(int64_t place) {
    std::vector<int64_t>& bin = bins_[holders_[place]];
    for (const int64_t position : bin) {
      const int64_t length = lengths_[position], tail = tail_of(length);
      write(position, length - tail, tail);
    }
    result_.starts.push_back(result_.num_pieces);
    bin.clear();
    free_[num_free_++] = holders_[place];
    --num_open_;
    for (int64_t i = place; i < num_open_; ++i) {
      keys_[i] = keys_[i + 1] - 1;  // one place further on
      holders_[i] = holders_[i + 1];
    }
    keys_[num_open_] = 0;
  }

  void write(int64_t position, int64_t start, int64_t length) {
    int64_t* const row = result_.pieces.get() + 3 * result_.num_pieces++;
    row[0] = position;
    row[1] = start;
    row[2] = length;
  }

  const int64_t* lengths_;
  int64_t capacity_, align_, window_, num_open_ = 0, num_free_ = kMostOpenBins;
  Keys<Key> keys_{};
  std::array<uint8_t, kMostOpenBins> holders_{}, free_{};  // who holds the positions of a bin
  std::array<std::vector<int64_t>, kMostOpenBins> bins_;
  Packs result_;
};

template <typename Key>
Packs pack_with(Packer<Key> packer, int64_t num_documents) {
  for (int64_t i = 0; i < num_documents; ++i) packer.add_document(i);
  return packer.finish();
}

}  // namespace

Packs pack_index(const int64_t* lengths, int64_t num_documents, int64_t sequence_length,
                        int64_t align, int64_t window) {
  check_sequence_length(sequence_length);
  if (align < 1 || sequence_length % align != 0) {
    throw std::invalid_argument("sequence_length " + std::to_string(sequence_length) +
                                " is not a multiple of align " + std::to_string(align));
  }
  if (window < 1 || window > kMostOpenBins) {
    throw std::invalid_argument("window must be in [1, " + std::to_string(kMostOpenBins) +
                                "], found " + std::to_string(window));
  }
  int64_t total = 0, num_pieces = 0;
  for (int64_t i = 0; i < num_documents; ++i) {
    if (lengths[i] < 1 || lengths[i] > kMaxTokens - total) {
      throw std::invalid_argument("the document at position " + std::to_string(i) + " has length " +
                                  std::to_string(lengths[i]) + " after " + std::to_string(total) +
                                  " tokens; lengths must be at least 1 and sum to at most 2^62");
    }
    total += lengths[i];
    num_pieces += lengths[i] <= sequence_length ? 1 : (lengths[i] - 1) / sequence_length + 1;
  }
  if (sequence_length < int64_t{1} << 25) {
    return pack_with(
        Packer<uint32_t>(lengths, sequence_length, align, window, num_pieces), num_documents);
  }
  return pack_with(
      Packer<uint64_t>(lengths, sequence_length, align, window, num_pieces), num_documents);
}

}  // namespace order
