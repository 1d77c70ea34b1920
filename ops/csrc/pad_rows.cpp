#include "pad_rows.h"

#include "torch_glue.h"

namespace perception3d {
namespace {

template <class T>
Tensor pad_as(Tensor rows, Tensor order, Tensor start, int64_t slots, ScalarType type) {
  rows = as_type(rows, type);
  order = dense(order);
  start = dense(start);
  const int64_t groups = start.size(0) - 1, channels = rows.size(1);
  Tensor out = new_tensor(rows, {groups, slots, channels}, type);
  const bool whole = !rows.is_cuda();
  const PadRows<T> functor{
      rows.const_data_ptr<T>(),
      order.const_data_ptr<int64_t>(),
      start.const_data_ptr<int64_t>(),
      channels,
      slots,
      whole,
      out.mutable_data_ptr<T>()};
  const int64_t tasks = whole ? groups : groups * slots * channels;
  for_each(rows, tasks, 256, functor, P3D_LAUNCHER(pad_rows_cuda), "pad_rows");
  return out;
}

Tensor pad_rows(Tensor rows, Tensor order, Tensor start, int64_t slots) {
  const ScalarType type = rows.scalar_type();
  if (type == ScalarType::Double) return pad_as<double>(rows, order, start, slots, type);
  return as_type(pad_as<float>(rows, order, start, slots, ScalarType::Float), type);
}

}  // namespace
}  // namespace perception3d

P3D_KERNEL(pad_rows)
