// Processors with AVX-512: vectors of sixteen floats, and twice as many of them.
#include "row_gemm.h"

#ifdef P3D_X86_KERNELS
#include <immintrin.h>

#include <algorithm>
#include <type_traits>

#pragma GCC push_options
#pragma GCC target("avx512f,fma")

namespace perception3d {
namespace {

int compact_vectors(const int32_t* table, int count, int32_t* source, int32_t* target, int* total) {
  int found = 0, i = 0;
  __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (; i + 16 <= count; i += 16, places = _mm512_add_epi32(places, _mm512_set1_epi32(16))) {
    const __m512i values = _mm512_loadu_si512(table + i);
    const __mmask16 kept = _mm512_cmpge_epi32_mask(values, _mm512_setzero_si512());
    _mm512_storeu_si512(source + found, _mm512_maskz_compress_epi32(kept, values));
    _mm512_storeu_si512(target + found, _mm512_maskz_compress_epi32(kept, places));
    found += __builtin_popcount(kept);
  }
  *total += found;
  return i;
}

}  // namespace
}  // namespace perception3d

#define P3D_VECTOR_COMPACT
#define P3D_NAME "avx512"
#define P3D_GEMM kRowGemmAvx512
#define P3D_LANES 16
#define P3D_ROWS 12
#include "row_gemm_body.h"

#pragma GCC pop_options
#endif
