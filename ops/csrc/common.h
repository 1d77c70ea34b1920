// What every op shares: one macro for code of host and device, and nothing of torch.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define P3D_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define P3D_HOST_DEVICE inline
#endif

namespace perception3d {

// Launchers of the .cu files take their stream as an opaque pointer and return the error's text, or
// nullptr, so that neither side needs the other's headers.
using Stream = void*;

// The last sample whose first row is not above `row`; empty samples are passed over.
P3D_HOST_DEVICE int64_t sample_of_row(const int64_t* offsets, int64_t samples, int64_t row) {
  int64_t low = 0, high = samples;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (offsets[middle] <= row)
      low = middle;
    else
      high = middle;
  }
  return low;
}

}  // namespace perception3d
