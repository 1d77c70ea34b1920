#include "box_overlap.h"
#include "grid.cuh"

namespace perception3d {

const char* prepare_boxes_cuda(int64_t boxes, const PrepareBoxes& functor, Stream stream) {
  return for_each_cuda(boxes, functor, stream);
}

const char* box_overlap_cuda(int64_t tasks, const BoxOverlap<float>& functor, Stream stream) {
  return for_each_cuda(tasks, functor, stream);
}

const char* box_overlap_cuda(int64_t tasks, const BoxOverlap<double>& functor, Stream stream) {
  return for_each_cuda(tasks, functor, stream);
}

}  // namespace perception3d
