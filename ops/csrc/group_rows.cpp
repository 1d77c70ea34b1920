// Rows that share a key, by a stable sort.
#include "radix_sort.h"
#include "torch_glue.h"

namespace perception3d {
namespace {

std::tuple<Tensor, Tensor, Tensor> group_rows(Tensor key) {
  key = dense(key);
  const int64_t* keys = key.const_data_ptr<int64_t>();
  std::vector<KeyedRow> entries;
  entries.reserve(static_cast<size_t>(key.size(0)));
  for (int64_t row = 0; row < key.size(0); ++row)
    if (keys[row] >= 0) entries.push_back({keys[row], row});
  sort_by_key(entries);

  const int64_t kept = static_cast<int64_t>(entries.size());
  Tensor order = new_tensor(key, {kept}, ScalarType::Long);
  int64_t* order_out = order.mutable_data_ptr<int64_t>();
  std::vector<int64_t> unique, start;
  for (int64_t i = 0; i < kept; ++i) {
    order_out[i] = entries[i].row;
    if (i > 0 && entries[i].key == entries[i - 1].key) continue;
    unique.push_back(entries[i].key);
    start.push_back(i);
  }
  start.push_back(kept);
  const int64_t groups = static_cast<int64_t>(unique.size());
  Tensor unique_key = new_tensor(key, {groups}, ScalarType::Long);
  Tensor starts = new_tensor(key, {groups + 1}, ScalarType::Long);
  std::copy(unique.begin(), unique.end(), unique_key.mutable_data_ptr<int64_t>());
  std::copy(start.begin(), start.end(), starts.mutable_data_ptr<int64_t>());
  return {unique_key, order, starts};
}

}  // namespace
}  // namespace perception3d

P3D_CPU_KERNEL(group_rows)
