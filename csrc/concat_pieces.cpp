#include "concat_pieces.h"

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>

#include "epoch.h"
#include "limits.h"

namespace order {

namespace {

class Rows {
 public:
  explicit Rows(const ConcatStream& stream)
      : stream_(stream), num_positions_(stream.num_documents - stream.num_held_out) {
    const auto require = [](bool holds, const char* what) {
      if (!holds) throw std::invalid_argument(what);
    };
    require(stream.num_held_out >= 0 && num_positions_ > 0, "no document is in any epoch");
    require(stream.start_position >= 0 && stream.start_position <= num_positions_,
            "the stream begins outside its first epoch");
    require(stream.segment_documents >= 1 && stream.segment_documents <= kMostSegment,
            "segment_documents must be in [1, 2^20]");
    require(stream.align >= 1 && stream.align <= (int64_t{1} << 31), "align must be in [1, 2^31]");
    require(stream.num_rows >= 0, "slots_before must have an element at least");
    segment_ = std::min(stream.segment_documents, num_positions_);
    first_rows_ = segments(num_positions_ - stream.start_position);
    epoch_rows_ = segments(num_positions_);
    documents_.resize(segment_);
    tokens_.resize(segment_);
  }

  void decode(int64_t row) {
    if (row == row_) return;
    row_ = -1;
    int64_t passed = 0, first = stream_.start_position + row * segment_;
    if (row >= first_rows_) {
      passed = 1 + (row - first_rows_) / epoch_rows_;
      first = (row - first_rows_) % epoch_rows_ * segment_;
    }
    if (passed >= stream_.num_epochs) {
      throw std::invalid_argument("row " + std::to_string(row) + " lies in epoch " +
                                  std::to_string(passed) + " of the stream, keys are given for " +
                                  std::to_string(stream_.num_epochs));
    }
    if (passed != epoch_) {
      documents_of_.reset();
      documents_of_ = std::make_unique<EpochDocuments>(
          stream_.lengths, stream_.num_documents, stream_.split_key, stream_.epoch_keys[passed],
          stream_.num_held_out);
      epoch_ = passed;
    }
    first_ = first;
    count_ = std::min(segment_, num_positions_ - first);
    num_read_ = 0;
    row_ = row;
  }

  // Adds what the decoded row, which begins at slot `at`, holds of the slots first .. stop - 1.
  void cut(int64_t at, int64_t first, int64_t stop, std::vector<int64_t>& pieces) {
    const int64_t align = stream_.align;
    for (int64_t i = 0; i < count_ && at < stop; ++i) {
      if (i == num_read_) read_more();
      int64_t tokens = tokens_[i], begin = 0;
      if (tokens == 0) continue;
      const int64_t slots = align == 1 ? tokens : (tokens + align - 1) / align * align;
      int64_t padding = slots - tokens;
      const int64_t end = at + slots;
      if (end > first) {
        if (at < first) {
          begin = first - at;
          tokens -= begin;
        }
        if (end > stop) {
          const int64_t over = end - stop;
          tokens -= std::max<int64_t>(0, over - padding);
          padding = std::max<int64_t>(0, padding - over);
        }
        pieces.insert(pieces.end(), {documents_[i], begin, tokens, padding,
                                     stream_.first_epoch + epoch_});
      }
      at = end;
    }
  }

 private:
  static constexpr int64_t kMostSegment = int64_t{1} << 20, kReadTogether = 32;

  // As far as slots are asked for: two thirds of a random sample's segment of 128, which makes
  // 4.6 us a sample of 4,096 tokens 3.2 (2026-11-22).
  void read_more() {
    const int64_t more = std::min(kReadTogether, count_ - num_read_);
    documents_of_->read(first_ + num_read_, more, documents_.data() + num_read_,
                        tokens_.data() + num_read_);
    num_read_ += more;
  }

  int64_t segments(int64_t positions) const { return (positions + segment_ - 1) / segment_; }

  const ConcatStream& stream_;
  int64_t num_positions_, segment_ = 1, first_rows_ = 0, epoch_rows_ = 1;
  int64_t row_ = -1, epoch_ = -1, first_ = 0, count_ = 0, num_read_ = 0;
  std::unique_ptr<EpochDocuments> documents_of_;
  std::vector<int64_t> documents_, tokens_;
};

}  // namespace

Pieces concat_pieces(const ConcatStream& stream, int64_t sequence_length, const int64_t* samples,
                     int64_t num_samples) {
  check_sequence_length(sequence_length);
  if (sequence_length % stream.align != 0) {
    throw std::invalid_argument("align " + std::to_string(stream.align) + " does not divide " +
                                std::to_string(sequence_length));
  }
  Rows rows(stream);
  Pieces pieces;
  pieces.starts.push_back(0);
  const int64_t* const ends = stream.slots_before + stream.num_rows;
  for (int64_t i = 0; i < num_samples; ++i) {
    const int64_t sample = samples[i];
    int64_t first = 0;
    const bool is_inside = sample >= 0 && sample <= kMaxTokens / sequence_length &&
                           (first = sample * sequence_length) >= stream.slots_before[0] &&
                           first < *ends;
    if (!is_inside) {
      throw std::invalid_argument("sample " + std::to_string(sample) + " of " +
                                  std::to_string(sequence_length) + " slots begins outside " +
                                  std::to_string(stream.slots_before[0]) + " to " +
                                  std::to_string(*ends));
    }
    const int64_t stop = first + sequence_length + 1;
    int64_t row = std::upper_bound(stream.slots_before, ends, first) - stream.slots_before - 1;
    for (; row < stream.num_rows && stream.slots_before[row] < stop; ++row) {
      rows.decode(row);
      rows.cut(stream.slots_before[row], first, stop, pieces.rows);
    }
    pieces.starts.push_back(static_cast<int64_t>(pieces.rows.size()) / 5);
  }
  return pieces;
}

}  // namespace order
