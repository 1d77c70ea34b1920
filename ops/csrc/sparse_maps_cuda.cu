#include "grid.cuh"
#include "sparse_maps.h"

namespace perception3d {

const char* submanifold_table_cuda(int64_t tasks, const SubmanifoldTable& functor, Stream stream) {
  return for_each_cuda(tasks, functor, stream);
}

const char* turn_table_cuda(int64_t tasks, const TurnTable& functor, Stream stream) {
  return for_each_cuda(tasks, functor, stream);
}

}  // namespace perception3d
