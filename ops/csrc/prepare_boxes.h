// The torch side of PrepareBoxes, for all ops that take boxes.
#pragma once

#include "box_overlap.h"
#include "torch_glue.h"

namespace perception3d {

// (N, 5 or 7) of any floating type to (N, kBoxNumbers) doubles.
inline Tensor prepared(const Tensor& boxes, const char* op) {
  const Tensor wide = as_type(boxes, ScalarType::Double);
  const int64_t rows = wide.size(0), columns = wide.size(1);
  STD_TORCH_CHECK(columns == 5 || columns == 7, op, ": boxes have 5 or 7 columns");
  Tensor out = new_tensor(wide, {rows, kBoxNumbers}, ScalarType::Double);
  const PrepareBoxes functor{
      wide.const_data_ptr<double>(), columns,
      reinterpret_cast<UprightBox*>(out.mutable_data_ptr<double>())};
  for_each(wide, rows, 1024, functor, P3D_LAUNCHER(prepare_boxes_cuda), op);
  return out;
}

inline const UprightBox* boxes_of(const Tensor& prepared) {
  return reinterpret_cast<const UprightBox*>(prepared.const_data_ptr<double>());
}

}  // namespace perception3d
