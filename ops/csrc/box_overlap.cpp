#include "box_overlap.h"

#include "prepare_boxes.h"
#include "torch_glue.h"

namespace perception3d {
namespace {

// A pair costs a few nanoseconds where the boxes are apart, a hundred where they overlap.
constexpr int64_t kPairsOfTask = 4096;

template <class T>
Tensor overlap_as(
    const Tensor& boxes1, const Tensor& boxes2, bool aligned, bool over_first, ScalarType type) {
  const int64_t rows = boxes1.size(0), columns = aligned ? 1 : boxes2.size(0);
  const Tensor prepared1 = prepared(boxes1, "box_overlap");
  const Tensor prepared2 = prepared(boxes2, "box_overlap");
  Tensor out =
      aligned ? new_tensor(prepared1, {rows}, type) : new_tensor(prepared1, {rows, columns}, type);
  if (rows == 0 || columns == 0) return out;
  const int64_t width = prepared1.is_cuda() ? 1 : columns;
  const BoxOverlap<T> functor{
      boxes_of(prepared1), boxes_of(prepared2),      columns, width, aligned,
      over_first,          out.mutable_data_ptr<T>()};
  const int64_t tasks = rows * ((columns + width - 1) / width);
  const int64_t grain = (kPairsOfTask + width - 1) / width;
  for_each(prepared1, tasks, grain, functor, P3D_LAUNCHER(box_overlap_cuda), "box_overlap");
  return out;
}

Tensor box_overlap(Tensor boxes1, Tensor boxes2, bool aligned, bool over_first) {
  STD_TORCH_CHECK(boxes1.size(1) == boxes2.size(1), "box_overlap: boxes of one kind are needed");
  STD_TORCH_CHECK(!aligned || boxes1.size(0) == boxes2.size(0), "box_overlap: as many boxes");
  if (boxes1.scalar_type() == ScalarType::Double || boxes2.scalar_type() == ScalarType::Double)
    return overlap_as<double>(boxes1, boxes2, aligned, over_first, ScalarType::Double);
  return overlap_as<float>(boxes1, boxes2, aligned, over_first, ScalarType::Float);
}

}  // namespace
}  // namespace perception3d

P3D_KERNEL(box_overlap)
