// Any processor: vectors of four floats, which every 64-bit one has.
#include "row_gemm.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#define P3D_NAME "base"
#define P3D_GEMM kRowGemmBase
#define P3D_LANES 4
#define P3D_ROWS 6
#include "row_gemm_body.h"

namespace perception3d {

const RowGemm& row_gemm() {
#ifdef P3D_X86_KERNELS
  const char* wanted = std::getenv("PERCEPTION3D_ISA");
  const auto allowed = [&](const char* name) { return !wanted || std::strcmp(wanted, name) == 0; };
  if (__builtin_cpu_supports("avx512f") && allowed("avx512")) return kRowGemmAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && allowed("avx2"))
    return kRowGemmAvx2;
#endif
  return kRowGemmBase;
}

}  // namespace perception3d
