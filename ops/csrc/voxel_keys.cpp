#include "voxel_keys.h"

#include "torch_glue.h"

namespace perception3d {
namespace {

Tensor voxel_keys(
    Tensor xyz, Tensor offsets, std::vector<double> low, std::vector<double> size,
    std::vector<int64_t> cells) {
  STD_TORCH_CHECK(
      low.size() == 3 && size.size() == 3 && cells.size() == 3, "three axes are needed");
  // Often the first columns of wider points: those are read where they lie.
  if (xyz.scalar_type() != ScalarType::Float || xyz.stride(1) != 1)
    xyz = as_type(xyz, ScalarType::Float);
  offsets = dense(offsets);
  Tensor key = new_tensor(xyz, {xyz.size(0)}, ScalarType::Long);
  VoxelKeys functor;
  functor.xyz = xyz.const_data_ptr<float>();
  functor.apart = xyz.stride(0);
  functor.offsets = offsets.const_data_ptr<int64_t>();
  functor.samples = offsets.size(0) - 1;
  for (int axis = 0; axis < 3; ++axis) {
    functor.low[axis] = static_cast<float>(low[axis]);
    functor.size[axis] = static_cast<float>(size[axis]);
    functor.cells[axis] = cells[axis];
  }
  functor.key = key.mutable_data_ptr<int64_t>();
  for_each(xyz, xyz.size(0), 4096, functor, P3D_LAUNCHER(voxel_keys_cuda), "voxel_keys");
  return key;
}

}  // namespace
}  // namespace perception3d

P3D_KERNEL(voxel_keys)
