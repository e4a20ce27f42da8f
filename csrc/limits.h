// What every order builder checks of its numbers.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace order {

constexpr int64_t kMaxTokens = int64_t{1} << 62;  // products of two such fit 128 bits

inline void check_sequence_length(int64_t sequence_length) {
  if (sequence_length < 1 || sequence_length > (int64_t{1} << 31)) {
    throw std::invalid_argument("sequence_length must be in [1, 2^31], found " +
                                std::to_string(sequence_length));
  }
}

}  // namespace order
