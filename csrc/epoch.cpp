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
  if (align < 1 || align > (int64_t{1} << 31)) {
    throw std::invalid_argument("align must be in [1, 2^31], found " + std::to_string(align));
  }
  if (segment_documents < 1 || segment_documents > kMaxItems) {
    throw std::invalid_argument("segment_documents must be in [1, 2^62], found " +
                                std::to_string(segment_documents));
  }
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

}  // namespace order
