// Best-fit packing of whole documents into sequences, with a bounded window of open bins
// (`pack: whole`). A document is cut only when it is longer than the sequence: into pieces of
// sequence_length and a tail, which is packed like a document.
#pragma once

#include <cstdint>
#include <set>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sample_index.h"

namespace order {

struct Packs {
  std::vector<int64_t> pieces;  // rows (position, start inside the document, length)
  std::vector<int64_t> starts;  // pack p holds the pieces starts[p] .. starts[p + 1] - 1
};

class Packer {
 public:
  Packer(int64_t sequence_length, int64_t align, int64_t window)
      : capacity_(sequence_length), align_(align), window_(window) {
    result_.starts.push_back(0);
  }

  void add_document(int64_t position, int64_t length) {
    int64_t start = 0;
    for (; length - start >= capacity_; start += capacity_) {
      emit({{position, start, capacity_}});
    }
    if (start < length) place({position, start, length - start});
  }

  // Closes what is open, oldest bin first.
  Packs finish() {
    std::set<int64_t> numbers;
    for (const auto& item : open_) numbers.insert(item.first);
    for (const int64_t number : numbers) emit(open_.at(number));
    return std::move(result_);
  }

 private:
  struct Piece {
    int64_t position, start, length;
  };

  void place(const Piece& piece) {
    const int64_t slot = (piece.length + align_ - 1) / align_ * align_;
    // The fullest bin that still takes the piece; among equals the oldest.
    auto found = by_room_.lower_bound({slot, 0});
    if (found == by_room_.end()) {
      if (static_cast<int64_t>(open_.size()) == window_) close(*by_room_.begin());
      found = by_room_.insert({capacity_, num_bins_}).first;
      open_[num_bins_++];
    }
    const auto [room, number] = *found;
    by_room_.erase(found);
    open_[number].push_back(piece);
    by_room_.insert({room - slot, number});
    if (room == slot) close({0, number});
  }

  void close(std::pair<int64_t, int64_t> room_and_number) {
    by_room_.erase(room_and_number);
    const auto found = open_.find(room_and_number.second);
    emit(found->second);
    open_.erase(found);
  }

  void emit(const std::vector<Piece>& pieces) {
    for (const Piece& piece : pieces) {
      result_.pieces.insert(result_.pieces.end(), {piece.position, piece.start, piece.length});
    }
    result_.starts.push_back(static_cast<int64_t>(result_.pieces.size()) / 3);
  }

  int64_t capacity_, align_, window_, num_bins_ = 0;
  std::set<std::pair<int64_t, int64_t>> by_room_;  // (tokens left, bin number)
  std::unordered_map<int64_t, std::vector<Piece>> open_;
  Packs result_;
};

inline Packs pack_index(const int64_t* lengths, int64_t num_documents, int64_t sequence_length,
                        int64_t align, int64_t window) {
  check_sequence_length(sequence_length);
  if (align < 1 || sequence_length % align != 0) {
    throw std::invalid_argument("sequence_length " + std::to_string(sequence_length) +
                                " is not a multiple of align " + std::to_string(align));
  }
  if (window < 1) {
    throw std::invalid_argument("window must be at least 1, found " + std::to_string(window));
  }
  checked_total(lengths, num_documents);
  Packer packer(sequence_length, align, window);
  for (int64_t i = 0; i < num_documents; ++i) packer.add_document(i, lengths[i]);
  return packer.finish();
}

}  // namespace order
