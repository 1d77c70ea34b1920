// The arithmetic of sparse convolution on the CPU: small matrix products whose rows are picked by
// index, so that nothing is copied together first. Compiled once for each instruction set
// (row_gemm_*.cpp, from row_gemm_body.h) and chosen when it runs.
#pragma once

#include <cstdint>

namespace perception3d {

struct RowGemm {
  const char* name;
  int columns;  // width of a panel of output channels

  // The entries of table[0, count) that are not -1: their values to `source`, their places to
  // `target`; returns how many. Both need room for count + 16.
  int (*compact)(const int32_t* table, int count, int32_t* source, int32_t* target);

  // out[target[i]] += features[source[i]] @ panel for i in [0, pairs). features has `channels`
  // columns, panel (channels, columns), out (any, columns).
  void (*multiply)(
      const float* features, int64_t channels, const int32_t* source, const int32_t* target,
      int pairs, const float* panel, float* out);

  // out[c, :] += sum over i of features[source[i], c] * gradient[target[i], :]: features has
  // `channels` columns, gradient `wide` of which `columns` are used, out (channels, wide) likewise.
  void (*outer)(
      const float* features, int64_t channels, const float* gradient, int64_t wide,
      const int32_t* source, const int32_t* target, int pairs, float* out);
};

extern const RowGemm kRowGemmBase;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define P3D_X86_KERNELS
extern const RowGemm kRowGemmAvx2;
extern const RowGemm kRowGemmAvx512;
#endif

// The best for this processor, or what the environment variable PERCEPTION3D_ISA names
// (base | avx2 | avx512), if the processor has it.
const RowGemm& row_gemm();

}  // namespace perception3d
