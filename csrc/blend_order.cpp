#include "blend_order.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

namespace order {

namespace {

uint64_t earliest_open_plain(const int64_t* opens, const int64_t* wholes, int64_t count,
                             int64_t total) {
  int64_t earliest = Targets::kNever;
  uint64_t due = 0;
  for (int64_t j = 0; j < count; ++j) {
    if (opens[j] > total || wholes[j] > earliest) continue;
    if (wholes[j] < earliest) due = 0;
    due |= uint64_t{1} << j;
    earliest = wholes[j];
  }
  return earliest == Targets::kNever ? 0 : due;
}

void set_plain(int64_t* opens, int64_t* wholes, int64_t j, int64_t open, int64_t whole) {
  opens[j] = open;
  wholes[j] = whole;
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2"))) uint64_t earliest_open_avx2(const int64_t* opens,
                                                            const int64_t* wholes, int64_t count,
                                                            int64_t total) {
  const auto* const open_fours = reinterpret_cast<const __m256i*>(opens);
  const auto* const whole_fours = reinterpret_cast<const __m256i*>(wholes);
  const __m256i now = _mm256_set1_epi64x(total), never = _mm256_set1_epi64x(Targets::kNever);
  __m256i least = never;
  for (int64_t i = 0; i < count / 4; ++i) {
    const __m256i later = _mm256_cmpgt_epi64(_mm256_loadu_si256(open_fours + i), now);
    const __m256i whole = _mm256_loadu_si256(whole_fours + i);
    const __m256i earlier = _mm256_andnot_si256(later, _mm256_cmpgt_epi64(least, whole));
    least = _mm256_blendv_epi8(least, whole, earlier);
  }
  // The least of four, in each of four.
  __m256i other = _mm256_permute4x64_epi64(least, 0x4E);
  least = _mm256_blendv_epi8(least, other, _mm256_cmpgt_epi64(least, other));
  other = _mm256_permute4x64_epi64(least, 0xB1);
  least = _mm256_blendv_epi8(least, other, _mm256_cmpgt_epi64(least, other));
  uint64_t due = 0;
  for (int64_t i = 0; i < count / 4; ++i) {
    const __m256i later = _mm256_cmpgt_epi64(_mm256_loadu_si256(open_fours + i), now);
    const __m256i same = _mm256_cmpeq_epi64(_mm256_loadu_si256(whole_fours + i), least);
    const int lanes = _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_andnot_si256(later, same)));
    due |= static_cast<uint64_t>(lanes) << (4 * i);
  }
  return due;
}

// A number is written with its four, since a narrow write would hold up the wide read of it that
// follows at once.
__attribute__((target("avx2"))) void set_avx2(int64_t* opens, int64_t* wholes, int64_t j,
                                              int64_t open, int64_t whole) {
  const __m256i lanes = _mm256_setr_epi64x(0, 1, 2, 3);
  const __m256i here = _mm256_cmpeq_epi64(lanes, _mm256_set1_epi64x(j & 3));
  const auto write = [&](int64_t* numbers, __m256i number) __attribute__((target("avx2"))) {
    auto* const four = reinterpret_cast<__m256i*>(numbers + (j & ~int64_t{3}));
    _mm256_storeu_si256(four, _mm256_blendv_epi8(_mm256_loadu_si256(four), number, here));
  };
  write(opens, _mm256_set1_epi64x(open));
  write(wholes, _mm256_set1_epi64x(whole));
}

const bool kHasAvx2 = __builtin_cpu_supports("avx2");
#else
const bool kHasAvx2 = false;
const auto earliest_open_avx2 = earliest_open_plain;
const auto set_avx2 = set_plain;
#endif

}  // namespace

int64_t most_scanned() { return kHasAvx2 ? 48 : 16; }

Scan choose_scan(int64_t num_sources) {
  const bool wide = kHasAvx2 && num_sources > 5;
  return wide ? Scan{earliest_open_avx2, set_avx2} : Scan{earliest_open_plain, set_plain};
}

}  // namespace order
