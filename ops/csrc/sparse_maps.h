// Kernel maps of sparse convolutions: what the CPU and CUDA share.
#pragma once

#include "common.h"

namespace perception3d {

// Sites as numbers that ascend with (sample, z, y, x). Each axis has room for `border` more cells,
// so that a step over the edge of the grid never lands on a site.
struct SiteKeys {
  const int32_t* index;  // (N, 4) sample, z, y, x
  int64_t room[3];       // cells along z, y, x, border included

  P3D_HOST_DEVICE int64_t operator()(int64_t row) const {
    const int32_t* at = index + 4 * row;
    return ((static_cast<int64_t>(at[0]) * room[0] + at[1]) * room[1] + at[2]) * room[2] + at[3];
  }
};

// One call finds the neighbour of one site through one tap by binary search.
struct SubmanifoldTable {
  SiteKeys key;
  int64_t sites;
  int64_t kernel[3], dilation[3];
  int32_t* table;  // (K, N)

  P3D_HOST_DEVICE int64_t shift_of(int64_t tap) const {
    const int64_t z = tap / (kernel[1] * kernel[2]), y = tap / kernel[2] % kernel[1];
    const int64_t x = tap % kernel[2];
    const int64_t dz = (z - kernel[0] / 2) * dilation[0], dy = (y - kernel[1] / 2) * dilation[1];
    return (dz * key.room[1] + dy) * key.room[2] + (x - kernel[2] / 2) * dilation[2];
  }

  // The first site whose key is not below `wanted`.
  P3D_HOST_DEVICE int64_t first_from(int64_t wanted) const {
    int64_t low = 0, high = sites;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (key(middle) < wanted)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }

  P3D_HOST_DEVICE void operator()(int64_t task) const {
    const int64_t wanted = key(task % sites) + shift_of(task / sites);
    const int64_t found = first_from(wanted);
    table[task] = found < sites && key(found) == wanted ? static_cast<int32_t>(found) : -1;
  }
};

// One call enters an entry of a table in its counterpart, where outputs and inputs have changed
// roles. Through one tap an input feeds one output at most, so no two calls write the same place.
struct TurnTable {
  const int32_t* table;  // (K, M) inputs, or -1
  int64_t outputs, inputs;
  int32_t* turned;  // (K, N) outputs; -1 everywhere

  P3D_HOST_DEVICE void operator()(int64_t task) const {
    if (table[task] >= 0)
      turned[task / outputs * inputs + table[task]] = static_cast<int32_t>(task % outputs);
  }
};

// Writes a cell, numbered ((sample nz + z) ny + y) nx + x, as sample, z, y, x.
P3D_HOST_DEVICE void write_site(int64_t cell, const int64_t* shape, int32_t* to) {
  for (int axis = 2; axis >= 0; --axis) {
    to[axis + 1] = static_cast<int32_t>(cell % shape[axis]);
    cell /= shape[axis];
  }
  to[0] = static_cast<int32_t>(cell);
}

// Output cell that an input feeds through a tap.
struct TapStep {
  int64_t out_shape[3], stride[3], padding[3], dilation[3];
  bool transposed;

  // The cell along one axis, or -1.
  P3D_HOST_DEVICE int64_t along(int axis, int64_t cell, int64_t tap) const {
    if (transposed) {
      const int64_t to = cell * stride[axis] - padding[axis] + tap * dilation[axis];
      return to >= 0 && to < out_shape[axis] ? to : -1;
    }
    const int64_t from = cell + padding[axis] - tap * dilation[axis];
    if (from < 0 || from % stride[axis] != 0) return -1;
    const int64_t to = from / stride[axis];
    return to < out_shape[axis] ? to : -1;
  }
};

const char* submanifold_table_cuda(int64_t tasks, const SubmanifoldTable& functor, Stream stream);
const char* turn_table_cuda(int64_t tasks, const TurnTable& functor, Stream stream);

}  // namespace perception3d
