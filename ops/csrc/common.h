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

}  // namespace perception3d
