// Processors with AVX2: vectors of eight floats.
#include "row_gemm.h"

#ifdef P3D_X86_KERNELS
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <type_traits>

#pragma GCC push_options
#pragma GCC target("avx2,fma")

namespace perception3d {
namespace {

// For each set of eight lanes that are kept, the lanes' numbers in order, a byte each.
constexpr std::array<uint64_t, 256> lanes_of_masks() {
  std::array<uint64_t, 256> lanes{};
  for (unsigned mask = 0; mask < 256; ++mask)
    for (unsigned lane = 0, place = 0; lane < 8; ++lane)
      if (mask >> lane & 1) lanes[mask] |= static_cast<uint64_t>(lane) << (8 * place++);
  return lanes;
}
constexpr std::array<uint64_t, 256> kLanesOfMask = lanes_of_masks();

int compact_vectors(const int32_t* table, int count, int32_t* source, int32_t* target, int* total) {
  int found = 0, i = 0;
  __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  for (; i + 8 <= count; i += 8, places = _mm256_add_epi32(places, _mm256_set1_epi32(8))) {
    // What the caller asks for next in this row of the table; too short for the processor to guess.
    _mm_prefetch(reinterpret_cast<const char*>(table + i + count), _MM_HINT_T0);
    const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(table + i));
    const unsigned mask =
        ~static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(values))) & 255u;
    const __m256i lanes =
        _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(kLanesOfMask[mask])));
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(source + found), _mm256_permutevar8x32_epi32(values, lanes));
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(target + found), _mm256_permutevar8x32_epi32(places, lanes));
    found += __builtin_popcount(mask);
  }
  *total += found;
  return i;
}

}  // namespace
}  // namespace perception3d

#define P3D_VECTOR_COMPACT
#define P3D_NAME "avx2"
#define P3D_GEMM kRowGemmAvx2
#define P3D_LANES 8
#define P3D_ROWS 6
#include "row_gemm_body.h"

#pragma GCC pop_options
#endif
