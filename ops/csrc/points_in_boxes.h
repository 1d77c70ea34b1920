// Points in upright boxes: top and bottom belong to a box, its sides do not (as published: mmcv
// points_in_boxes). Differences and turns are double, so that no face moves by rounding.
#pragma once

#include "box_overlap.h"

namespace perception3d {

template <class T>
P3D_HOST_DEVICE bool is_inside(const T* point, const UprightBox& box) {
  const double dx = static_cast<double>(point[0]) - box.x;
  const double dy = static_cast<double>(point[1]) - box.y;
  const double dz = static_cast<double>(point[2]) - box.z;
  if (!(fabs(dz) <= box.half_h)) return false;
  if (!(box.area == box.area)) return false;  // a box that is not finite holds nothing
  return fabs(box.cosine * dx + box.sine * dy) < box.half_l &&
         fabs(box.cosine * dy - box.sine * dx) < box.half_w;
}

// CUDA's way: one call searches the boxes of one point. The CPU looks boxes up in a grid.
template <class T>
struct FirstBox {
  const T* points;  // (P, 3)
  const UprightBox* boxes;
  const int64_t* point_offsets;  // (samples + 1)
  const int64_t* box_offsets;    // (samples + 1)
  int64_t samples;
  int64_t* first;  // (P)

  P3D_HOST_DEVICE void operator()(int64_t point) const {
    const int64_t sample = sample_of_row(point_offsets, samples, point);
    first[point] = -1;
    for (int64_t box = box_offsets[sample]; box < box_offsets[sample + 1]; ++box) {
      if (!is_inside(points + 3 * point, boxes[box])) continue;
      first[point] = box;
      return;
    }
  }
};

// One call compares one point with one box.
template <class T>
struct BoxMask {
  const T* points;  // (P, 3)
  const UprightBox* boxes;
  const int64_t* point_offsets;
  const int64_t* box_offsets;
  int64_t samples, box_count;
  bool* mask;  // (P, box_count)

  P3D_HOST_DEVICE void operator()(int64_t pair) const {
    const int64_t point = pair / box_count, box = pair % box_count;
    const int64_t sample = sample_of_row(point_offsets, samples, point);
    mask[pair] = box >= box_offsets[sample] && box < box_offsets[sample + 1] &&
                 is_inside(points + 3 * point, boxes[box]);
  }
};

const char* first_box_cuda(int64_t points, const FirstBox<float>& functor, Stream stream);
const char* first_box_cuda(int64_t points, const FirstBox<double>& functor, Stream stream);
const char* box_mask_cuda(int64_t pairs, const BoxMask<float>& functor, Stream stream);
const char* box_mask_cuda(int64_t pairs, const BoxMask<double>& functor, Stream stream);

}  // namespace perception3d
