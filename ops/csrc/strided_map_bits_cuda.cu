#include "grid.cuh"
#include "strided_map_bits.h"

namespace perception3d {

const char* mark_cells_cuda(int64_t tasks, const MarkCells& functor, Stream stream) {
  return for_each_cuda(tasks, functor, stream);
}

const char* count_bits_cuda(int64_t words, const CountBits& functor, Stream stream) {
  return for_each_cuda(words, functor, stream);
}

const char* emit_sites_cuda(int64_t words, const EmitSites& functor, Stream stream) {
  return for_each_cuda(words, functor, stream);
}

const char* join_sites_cuda(int64_t tasks, const JoinSites& functor, Stream stream) {
  return for_each_cuda(tasks, functor, stream);
}

}  // namespace perception3d
