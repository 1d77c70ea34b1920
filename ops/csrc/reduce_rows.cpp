#include "reduce_rows.h"

#include <algorithm>

#include "torch_glue.h"

namespace perception3d {
namespace {

// Groups of few rows are small tasks: some hundred of them make a thread's share worth its start.
constexpr int64_t kGrain = 256;

// The CPU's way: rows are read as they lie in memory, which is faster than group by group even
// where the results do not fit into the cache. A thread owns some groups and passes over the
// others' rows, so sums have the same order as by group.
template <class T>
void reduce_in_row_order(const ReduceRows<T>& functor, int64_t groups, int64_t rows) {
  const int64_t channels = functor.channels;
  std::vector<int32_t> group_of(
      static_cast<size_t>(rows), -1);  // of all rows but each group's first
  parallel(groups, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      functor.begin_group(group, 0, channels);
      for (int64_t i = functor.start[group] + 1; i < functor.start[group + 1]; ++i)
        group_of[functor.order[i]] = static_cast<int32_t>(group);
    }
  });
  const int64_t shares = std::min<int64_t>(groups, torch::stable::get_num_threads());
  parallel(shares, 1, [&](int64_t begin, int64_t end) {
    const int64_t from = begin * groups / shares, to = end * groups / shares;
    for (int64_t row = 0; row < rows; ++row)
      if (group_of[row] >= from && group_of[row] < to)
        functor.add_row(group_of[row], row, 0, channels);
    for (int64_t group = from; group < to; ++group) functor.end_group(group, 0, channels);
  });
}

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
  const ReduceRows<T> functor{
      rows.const_data_ptr<T>(),
      order.const_data_ptr<int64_t>(),
      start.const_data_ptr<int64_t>(),
      channels,
      reduction,
      out.mutable_data_ptr<T>(),
      with_source ? source.mutable_data_ptr<int32_t>() : nullptr};
  if (!rows.is_cuda()) {
    reduce_in_row_order(functor, groups, rows.size(0));
    return {out, source};
  }
  for_each(rows, groups * channels, kGrain, functor, P3D_LAUNCHER(reduce_rows_cuda), "reduce_rows");
  return {out, source};
}

std::tuple<Tensor, Tensor> reduce_rows(
    Tensor rows, Tensor order, Tensor start, int64_t reduction, bool with_source) {
  const auto kind = static_cast<Reduction>(reduction);
  with_source = with_source && kind == Reduction::kMax;
  if (rows.scalar_type() == ScalarType::Double)
    return reduce_as<double>(rows, order, start, kind, with_source, ScalarType::Double);
  auto [out, source] = reduce_as<float>(rows, order, start, kind, with_source, ScalarType::Float);
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
      gradient.const_data_ptr<T>(),
      order.const_data_ptr<int64_t>(),
      start.const_data_ptr<int64_t>(),
      source.const_data_ptr<int32_t>(),
      channels,
      width,
      reduction,
      out.mutable_data_ptr<T>()};
  const int64_t tasks = groups * ((channels + width - 1) / width);
  for_each(gradient, tasks, kGrain, functor, P3D_LAUNCHER(spread_rows_cuda), "spread_rows");
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
