#include "box_nms.h"
#include "grid.cuh"

namespace perception3d {
namespace {

constexpr int kThreads = 256;

// A block sweeps a sample, 64 rows at a time: one thread settles the rows among themselves, then
// all threads mark what the kept ones suppress further on.
__global__ void sweep_kernel(SweepBits sweep) {
  __shared__ uint64_t own[64];  // what each of the 64 rows suppresses among them
  __shared__ uint64_t kept;
  const int64_t sample = blockIdx.x;
  const int64_t begin = sweep.offsets[sample], end = sweep.offsets[sample + 1];
  uint64_t* removed = sweep.removed + sample * sweep.words;
  for (int64_t word = 0; begin + 64 * word < end; ++word) {
    const int64_t start = begin + 64 * word;
    const int count = static_cast<int>(end - start < 64 ? end - start : 64);
    // Rows beyond the words take no part: their bits were never made.
    const bool covered = word < sweep.words;
    if (threadIdx.x < count)
      own[threadIdx.x] = covered ? sweep.bits[(start + threadIdx.x) * sweep.words + word] : 0;
    __syncthreads();
    if (threadIdx.x == 0) {
      uint64_t gone = covered ? removed[word] : ~uint64_t{0};
      kept = 0;
      for (int i = 0; i < count; ++i) {
        if (!sweep.alive[start + i] || (gone >> i & 1)) continue;
        kept |= uint64_t{1} << i;
        gone |= own[i];
      }
    }
    __syncthreads();
    if (threadIdx.x < count) sweep.kept[start + threadIdx.x] = kept >> threadIdx.x & 1;
    for (int64_t later = word + 1 + threadIdx.x; later < sweep.words; later += blockDim.x) {
      uint64_t found = 0;
      for (uint64_t rest = kept; rest != 0; rest &= rest - 1)
        found |=
            sweep.bits[(start + __ffsll(static_cast<long long>(rest)) - 1) * sweep.words + later];
      removed[later] |= found;
    }
    __syncthreads();
  }
}

}  // namespace

const char* suppression_bits_cuda(
    int64_t tasks, const SuppressionBits<OverlapHit>& functor, Stream stream) {
  return for_each_cuda(tasks, functor, stream);
}

const char* suppression_bits_cuda(
    int64_t tasks, const SuppressionBits<CircleHit>& functor, Stream stream) {
  return for_each_cuda(tasks, functor, stream);
}

const char* sweep_bits_cuda(int64_t samples, const SweepBits& functor, Stream stream) {
  if (samples == 0) return nullptr;
  sweep_kernel<<<static_cast<unsigned>(samples), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      functor);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace perception3d
