#include "grid.cuh"
#include "points_in_boxes.h"

namespace perception3d {

const char* first_box_cuda(int64_t points, const FirstBox<float>& functor, Stream stream) {
  return for_each_cuda(points, functor, stream);
}

const char* first_box_cuda(int64_t points, const FirstBox<double>& functor, Stream stream) {
  return for_each_cuda(points, functor, stream);
}

const char* box_mask_cuda(int64_t pairs, const BoxMask<float>& functor, Stream stream) {
  return for_each_cuda(pairs, functor, stream);
}

const char* box_mask_cuda(int64_t pairs, const BoxMask<double>& functor, Stream stream) {
  return for_each_cuda(pairs, functor, stream);
}

}  // namespace perception3d
