#include "grid.cuh"
#include "voxel_keys.h"

namespace perception3d {

const char* voxel_keys_cuda(int64_t points, const VoxelKeys& functor, Stream stream) {
  return for_each_cuda(points, functor, stream);
}

}  // namespace perception3d
