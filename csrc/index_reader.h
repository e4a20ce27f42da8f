// What an .idx file says, checked against the sizes of the files before anything of it is used.
//
// Little-endian: "MMIDIDX\0\0" | version u64 = 1 | dtype code u8 | sequences u64 (N) | document
// boundaries u64 (M) | lengths i32[N] | byte offsets i64[N] | boundaries i64[M] | where sequences
// are of several kinds, their modes i8[N].
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

namespace order {

constexpr int64_t kIndexHeaderBytes = 34;
constexpr char kIndexMagic[] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', '\0', '\0'};

struct IndexFacts {
  int code;            // of the tokens' dtype
  int64_t item_bytes;  // of a token
  int64_t num_documents, num_boundaries;
  int64_t lengths_at, pointers_at, boundaries_at;  // bytes from the start of the .idx
  int64_t modes_at;                                // -1 where there are none
};

template <typename T>
T load(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

// Bytes of the dtypes of megatron.core.datasets.indexed_dataset.DType that can hold token ids:
// u8, i8, i16, i32, i64, (f64, f32,) u16. 0 for another code.
inline int64_t token_bytes(int code) {
  constexpr int64_t kBytes[] = {0, 1, 1, 2, 4, 8, 0, 0, 2};
  return code < 0 || code > 8 ? 0 : kBytes[code];
}

// header: the first bytes of the .idx, as many as there are up to kIndexHeaderBytes.
inline IndexFacts parse_index_header(const char* header, int64_t header_bytes, int64_t idx_bytes,
                                     int64_t bin_bytes) {
  if (header_bytes < kIndexHeaderBytes || idx_bytes < kIndexHeaderBytes ||
      std::memcmp(header, kIndexMagic, sizeof(kIndexMagic)) != 0) {
    throw std::invalid_argument("is not a Megatron index: " + std::to_string(idx_bytes) +
                                " bytes that do not begin with MMIDIDX and 25 bytes more");
  }
  const uint64_t version = load<uint64_t>(header + 9);
  const int code = load<uint8_t>(header + 17);
  const uint64_t num_documents = load<uint64_t>(header + 18);
  const uint64_t num_boundaries = load<uint64_t>(header + 26);
  if (version != 1 || token_bytes(code) == 0) {
    throw std::invalid_argument("has version " + std::to_string(version) + " and dtype code " +
                                std::to_string(code) +
                                "; this program reads version 1 and the integer codes 1, 2, 3, 4, "
                                "5 and 8");
  }
  __extension__ typedef unsigned __int128 uint128;
  const uint128 needed = uint128{12} * num_documents + uint128{8} * num_boundaries + 34;
  const uint128 found = static_cast<uint64_t>(idx_bytes);
  if (found != needed && found != needed + num_documents) {
    throw std::invalid_argument(
        "is damaged: " + std::to_string(num_documents) + " sequences and " +
        std::to_string(num_boundaries) + " document boundaries need " +
        (needed >> 63 ? std::string("more than 2^63")
                      : std::to_string(static_cast<uint64_t>(needed))) +
        " bytes, found " + std::to_string(idx_bytes));
  }
  if (bin_bytes < 0 || bin_bytes % token_bytes(code) != 0) {
    throw std::invalid_argument("does not belong to its .bin: " + std::to_string(bin_bytes) +
                                " bytes are no whole number of tokens of " +
                                std::to_string(token_bytes(code)));
  }
  IndexFacts facts{};
  facts.code = code;
  facts.item_bytes = token_bytes(code);
  facts.num_documents = static_cast<int64_t>(num_documents);
  facts.num_boundaries = static_cast<int64_t>(num_boundaries);
  facts.lengths_at = kIndexHeaderBytes;
  facts.pointers_at = facts.lengths_at + 4 * facts.num_documents;
  facts.boundaries_at = facts.pointers_at + 8 * facts.num_documents;
  const int64_t end = facts.boundaries_at + 8 * facts.num_boundaries;
  facts.modes_at = end < idx_bytes ? end : -1;
  return facts;
}

struct CheckedDocuments {
  int64_t end;  // byte of the .bin behind the last of them
  int64_t num_empty;
};

// Do documents first .. first + count - 1 lie in the .bin, the first from byte `begin` on, each
// where the one before it ends? lengths i32 and pointers i64 at any address.
inline CheckedDocuments check_documents(const char* lengths, const char* pointers, int64_t count,
                                        int64_t first, int64_t begin, int64_t item_bytes,
                                        int64_t bin_bytes) {
  if (first < 0 || begin < 0 || begin > bin_bytes || item_bytes < 1 || item_bytes > 8) {
    throw std::invalid_argument("document " + std::to_string(first) + " cannot begin at byte " +
                                std::to_string(begin) + " of " + std::to_string(bin_bytes) +
                                " with tokens of " + std::to_string(item_bytes));
  }
  int64_t end = begin, num_empty = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t length = load<int32_t>(lengths + 4 * i);
    const int64_t pointer = load<int64_t>(pointers + 8 * i);
    if (length < 0 || pointer != end || length * item_bytes > bin_bytes - end) {
      throw std::invalid_argument("is damaged: document " + std::to_string(first + i) + " has " +
                                  std::to_string(length) + " tokens from byte " +
                                  std::to_string(pointer) + " on, the one before it ends at byte " +
                                  std::to_string(end) + " and the .bin at " +
                                  std::to_string(bin_bytes));
    }
    end += length * item_bytes;
    num_empty += length == 0;
  }
  return {end, num_empty};
}

}  // namespace order
