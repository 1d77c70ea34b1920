// The cell of a point as one number. No torch here: the same functor runs on the CPU and on CUDA.
#pragma once

#include "common.h"

namespace perception3d {

struct VoxelKeys {
  const float* xyz;  // (P, 3), rows `apart` numbers from each other
  int64_t apart;
  const int64_t* offsets;  // (samples + 1)
  int64_t samples;
  float low[3], size[3];  // x, y, z
  int64_t cells[3];       // x, y, z
  int64_t* key;           // (P): cell, -1 outside of the grid, -2 not finite

  P3D_HOST_DEVICE void operator()(int64_t point) const {
    int64_t cell[3];
    int64_t rejected = 0;
    for (int axis = 0; axis < 3; ++axis) {
      const float p = xyz[apart * point + axis];
      const float place = (p - low[axis]) / size[axis];
      // Looked at before the cast: casting NaN or a huge float to an integer is undefined, and
      // differs between processors and GPUs.
      if (!(p - p == 0.0f)) {
        rejected = -2;
        break;
      }
      if (!(place >= 0.0f && place < static_cast<float>(cells[axis]))) rejected = -1;
      cell[axis] = rejected ? 0 : static_cast<int64_t>(place);
    }
    if (rejected) {
      key[point] = rejected;
      return;
    }
    const int64_t sample = sample_of_row(offsets, samples, point);
    key[point] = ((sample * cells[2] + cell[2]) * cells[1] + cell[1]) * cells[0] + cell[0];
  }
};

const char* voxel_keys_cuda(int64_t points, const VoxelKeys& functor, Stream stream);

}  // namespace perception3d
