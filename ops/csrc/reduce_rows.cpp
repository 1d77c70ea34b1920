#include "reduce_rows.h"

#include "torch_glue.h"

namespace perception3d {
namespace {

// Groups of few rows are small tasks: some hundred of them make a thread's share worth its start.
constexpr int64_t kGrain = 256;

template <class T>
std::tuple<Tensor, Tensor> reduce_as(
    Tensor rows, Tensor order, Tensor start, Reduction reduction, bool with_source,
    ScalarType type) {
  rows = as_type(rows, type);
  order = dense(order);
  start = dense(start);
  const int64_t groups = start.size(0) - 1, channels = rows.size(1);
  STD_TORCH_CHECK(rows.size(0) < (int64_t{1} << 31), "more than 2^31 rows");
  Tensor out = new_tensor(rows, {groups, channels}, type);
  Tensor source = new_tensor(rows, {with_source ? groups : 0, channels}, ScalarType::Int);
  const int64_t width = rows.is_cuda() || channels == 0 ? 1 : channels;
  const ReduceRows<T> functor{
      rows.const_data_ptr<T>(), order.const_data_ptr<int64_t>(), start.const_data_ptr<int64_t>(),
      order.size(0), channels, width, reduction, out.mutable_data_ptr<T>(),
      with_source ? source.mutable_data_ptr<int32_t>() : nullptr};
  const int64_t tasks = groups * ((channels + width - 1) / width);
  for_each(rows, tasks, kGrain, functor, P3D_LAUNCHER(reduce_rows_cuda), "reduce_rows");
  return {out, source};
}

std::tuple<Tensor, Tensor> reduce_rows(
    Tensor rows, Tensor order, Tensor start, int64_t reduction, bool with_source) {
  const auto kind = static_cast<Reduction>(reduction);
  with_source = with_source && kind == Reduction::kMax;
  if (rows.scalar_type() == ScalarType::Double)
    return reduce_as<double>(rows, order, start, kind, with_source, ScalarType::Double);
  auto [out, source] =
      reduce_as<float>(rows, order, start, kind, with_source, ScalarType::Float);
  return {as_type(out, rows.scalar_type()), source};
}

template <class T>
Tensor spread_as(
    Tensor gradient, Tensor order, Tensor start, Tensor source, int64_t rows, Reduction reduction,
    ScalarType type) {
  gradient = as_type(gradient, type);
  order = dense(order);
  start = dense(start);
  source = dense(source);
  const int64_t groups = start.size(0) - 1, channels = gradient.size(1);
  Tensor out = torch::stable::new_zeros(gradient, {rows, channels}, type);
  const int64_t width = gradient.is_cuda() || channels == 0 ? 1 : channels;
  const SpreadRows<T> functor{
      gradient.const_data_ptr<T>(), order.const_data_ptr<int64_t>(),
      start.const_data_ptr<int64_t>(), source.const_data_ptr<int32_t>(), channels, width,
      reduction, out.mutable_data_ptr<T>()};
  const int64_t tasks = groups * ((channels + width - 1) / width);
  for_each(
      gradient, tasks, kGrain, functor, P3D_LAUNCHER(spread_rows_cuda), "spread_rows");
  return out;
}

Tensor spread_rows(
    Tensor gradient, Tensor order, Tensor start, Tensor source, int64_t rows, int64_t reduction) {
  const auto kind = static_cast<Reduction>(reduction);
  if (gradient.scalar_type() == ScalarType::Double)
    return spread_as<double>(gradient, order, start, source, rows, kind, ScalarType::Double);
  return as_type(
      spread_as<float>(gradient, order, start, source, rows, kind, ScalarType::Float),
      gradient.scalar_type());
}

}  // namespace
}  // namespace perception3d

P3D_KERNEL(reduce_rows)
P3D_KERNEL(spread_rows)
