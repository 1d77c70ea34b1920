// A grid-stride loop over a functor: the device's counterpart of a parallel loop on the CPU.
#pragma once

#include <cuda_runtime.h>

#include "common.h"

namespace perception3d {

template <class Functor>
__global__ void for_each_kernel(int64_t count, Functor functor) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += stride)
    functor(i);
}

// Calls functor(i) for i in [0, count) on the stream; the text of an error, or nullptr.
template <class Functor>
const char* for_each_cuda(int64_t count, const Functor& functor, Stream stream) {
  if (count == 0) return nullptr;
  constexpr int kThreads = 256;
  const int64_t wanted = (count + kThreads - 1) / kThreads;
  const int blocks = static_cast<int>(wanted < 65536 ? wanted : 65536);
  for_each_kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(count, functor);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace perception3d
