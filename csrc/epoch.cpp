#include "epoch.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

namespace order {

namespace {

KeyedPermutation training_permutation(uint64_t key, int64_t num_documents, int64_t num_held_out) {
  if (num_held_out < 0 || num_held_out >= num_documents) {
    throw std::invalid_argument("num_held_out must be in [0, " + std::to_string(num_documents) +
                                "), found " + std::to_string(num_held_out));
  }
  return KeyedPermutation(key, num_documents - num_held_out);
}

void check_segments(int64_t align, int64_t segment_documents) {
  if (align < 1 || align > (int64_t{1} << 31)) {
    throw std::invalid_argument("align must be in [1, 2^31], found " + std::to_string(align));
  }
  if (segment_documents < 1 || segment_documents > kMaxItems) {
    throw std::invalid_argument("segment_documents must be in [1, 2^62], found " +
                                std::to_string(segment_documents));
  }
}

}  // namespace

EpochDocuments::EpochDocuments(const char* lengths, int64_t num_documents, uint64_t split_key,
                               uint64_t epoch_key, int64_t num_held_out)
    : lengths_(lengths),
      num_held_out_(num_held_out),
      split_(split_key, num_documents),
      epoch_(training_permutation(epoch_key, num_documents, num_held_out)) {}

void EpochDocuments::read(int64_t first, int64_t count, int64_t* documents,
                          int64_t* tokens) const {
  // The lengths lie anywhere: a batch's are asked of the memory while the next is computed.
  const auto fetch = [&](int64_t begin, int64_t end) {
    int32_t lowest = 0;
    for (int64_t i = begin; i < end; ++i) {
      int32_t length;
      std::memcpy(&length, lengths_ + 4 * documents[i], 4);
      lowest = std::min(lowest, length);
      tokens[i] = length;
    }
    for (int64_t i = begin; lowest < 0 && i < end; ++i) {
      if (tokens[i] < 0) {
        throw std::invalid_argument("document " + std::to_string(documents[i]) + " has length " +
                                    std::to_string(tokens[i]));
      }
    }
  };
  int64_t fetched = 0;
  for (int64_t done = 0; done < count;) {
    const int batch = static_cast<int>(std::min<int64_t>(kPermutationBatch, count - done));
    epoch_.map_range(first + done, batch, documents + done);
    for (int i = 0; i < batch; ++i) documents[done + i] += num_held_out_;
    split_.map(documents + done, batch);
    for (int i = 0; i < batch; ++i) {
      __builtin_prefetch(lengths_ + 4 * documents[done + i], 0, 0);
    }
    fetch(fetched, done);
    fetched = done;
    done += batch;
  }
  fetch(fetched, count);
}

std::vector<int64_t> segment_totals(const EpochDocuments& epoch, int64_t align,
                                    int64_t segment_documents, int64_t first_segment,
                                    int64_t num_segments) {
  check_segments(align, segment_documents);
  const int64_t num_positions = epoch.num_positions();
  segment_documents = std::min(segment_documents, num_positions);
  check_positions(first_segment, num_segments, (num_positions - 1) / segment_documents + 1);
  const uint32_t step = static_cast<uint32_t>(align);
  std::vector<int64_t> rows(2 * num_segments, 0);
  constexpr int64_t kBlock = 4096;
  std::vector<int64_t> documents(kBlock), tokens(kBlock);
  int64_t segment = 0;
  int64_t position = first_segment * segment_documents;
  int64_t segment_end = position + segment_documents;
  const int64_t end = num_segments > num_positions / segment_documents - first_segment
                          ? num_positions
                          : position + num_segments * segment_documents;
  while (position < end) {
    const int64_t count = std::min(kBlock, end - position);
    epoch.read(position, count, documents.data(), tokens.data());
    for (int64_t i = 0; i < count;) {
      const int64_t stop = std::min(count, segment_end - position);
      int64_t sum = 0, slots = 0;
      if (align == 1) {
        for (; i < stop; ++i) sum += tokens[i];
        slots = sum;
      } else {
        for (; i < stop; ++i) {
          sum += tokens[i];
          const uint32_t steps = (static_cast<uint32_t>(tokens[i]) + step - 1) / step;
          slots += steps * align;
        }
      }
      rows[2 * segment] += sum;
      rows[2 * segment + 1] += slots;
      if (position + i == segment_end) {
        ++segment;
        segment_end += segment_documents;
      }
    }
    position += count;
  }
  return rows;
}

std::vector<int64_t> document_totals(const char* lengths, int64_t first_document, int64_t count,
                                     int64_t num_documents, uint64_t split_key,
                                     uint64_t epoch_key, int64_t num_held_out, int64_t align,
                                     int64_t segment_documents) {
  check_segments(align, segment_documents);
  const KeyedPermutation split(split_key, num_documents);
  const KeyedPermutation epoch = training_permutation(epoch_key, num_documents, num_held_out);
  check_positions(first_document, count, num_documents);
  const int64_t num_segments = (epoch.num_items() - 1) / segment_documents + 1;
  const bool is_power = (segment_documents & (segment_documents - 1)) == 0;
  const int shift = __builtin_ctzll(static_cast<uint64_t>(segment_documents));
  const uint32_t step = static_cast<uint32_t>(align);
  std::vector<int64_t> rows(2 * num_segments, 0);
  int64_t places[kPermutationBatch];
  int32_t tokens[kPermutationBatch];
  for (int64_t done = 0; done < count; done += kPermutationBatch) {
    const int batch = static_cast<int>(std::min<int64_t>(kPermutationBatch, count - done));
    split.unmap_range(first_document + done, batch, places);
    int num_training = 0;
    for (int i = 0; i < batch; ++i) {
      int32_t length;
      std::memcpy(&length, lengths + 4 * (done + i), 4);
      if (length < 0) {
        throw std::invalid_argument("document " + std::to_string(first_document + done + i) +
                                    " has length " + std::to_string(length));
      }
      tokens[num_training] = length;
      places[num_training] = places[i] - num_held_out;
      num_training += places[num_training] >= 0;
    }
    epoch.unmap(places, num_training);
    for (int i = 0; i < num_training; ++i) {
      int64_t* const row = rows.data() + 2 * (is_power ? places[i] >> shift
                                                       : places[i] / segment_documents);
      row[0] += tokens[i];
      if (align > 1) {
        row[1] += (static_cast<uint32_t>(tokens[i]) + step - 1) / step * align;
      }
    }
  }
  for (int64_t s = 0; align == 1 && s < num_segments; ++s) rows[2 * s + 1] = rows[2 * s];
  return rows;
}

}  // namespace order
