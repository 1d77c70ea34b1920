#include "sparse_maps.h"

#include <algorithm>

#include "radix_sort.h"
#include "row_gemm.h"
#include "torch_glue.h"

namespace perception3d {
namespace {

constexpr int64_t kChunk = 8192;  // sites of a task

// Sites in lexicographic order, the rows they were, and what is wrong with them: how many lie
// outside of the grid and the first row of these, how many occur again and a row of these.
std::tuple<Tensor, Tensor, Tensor> sort_sites(
    Tensor index, std::vector<int64_t> shape, int64_t batch_size) {
  // As wide as they came: narrowed first, a cell of 2^32 + 1 would be taken for 1.
  index = as_type(index, ScalarType::Long);
  const int64_t sites = index.size(0);
  const int64_t* at = index.const_data_ptr<int64_t>();
  Tensor facts = torch::stable::new_zeros(index, {4}, ScalarType::Long);
  int64_t* fact = facts.mutable_data_ptr<int64_t>();
  std::vector<KeyedRow> rows(static_cast<size_t>(sites));
  for (int64_t row = 0; row < sites; ++row) {
    const int64_t b = at[4 * row], z = at[4 * row + 1], y = at[4 * row + 2], x = at[4 * row + 3];
    const bool inside = b >= 0 && b < batch_size && z >= 0 && z < shape[0] && y >= 0 &&
                        y < shape[1] && x >= 0 && x < shape[2];
    if (!inside && fact[0]++ == 0) fact[1] = row;
    rows[row] = {inside ? ((b * shape[0] + z) * shape[1] + y) * shape[2] + x : 0, row};
  }
  const bool sorted = sort_by_key(rows);
  Tensor order = new_tensor(index, {sorted ? 0 : sites}, ScalarType::Long);
  Tensor sorted_index = new_tensor(index, {sites, 4}, ScalarType::Int);
  int64_t* order_out = order.mutable_data_ptr<int64_t>();
  int32_t* to = sorted_index.mutable_data_ptr<int32_t>();
  for (int64_t i = 0; i < sites; ++i) {
    if (!sorted) order_out[i] = rows[i].row;
    for (int column = 0; column < 4; ++column)
      to[4 * i + column] = static_cast<int32_t>(at[4 * rows[i].row + column]);
    if (i > 0 && rows[i].key == rows[i - 1].key && fact[0] == 0 && fact[2]++ == 0)
      fact[3] = rows[i].row;
  }
  return {sorted_index, order, facts};
}

int64_t product(const std::vector<int64_t>& sizes) {
  int64_t total = 1;
  for (int64_t size : sizes) total *= size;
  return total;
}

// The CPU's way: sites and the cells wanted ascend together, so a sweep finds all of them. One task
// is one row of taps along x, whose wanted cells follow each other closely. What a tap finds, the
// opposite tap of the site found has too: rows behind the centre are never swept.
void sweep(
    const SubmanifoldTable& maps, const int64_t* key, int64_t tap_row, int64_t begin, int64_t end) {
  const int64_t all_taps = maps.kernel[0] * maps.kernel[1] * maps.kernel[2];
  const int64_t first_tap = tap_row * maps.kernel[2], step = maps.dilation[2];
  const int64_t taps = std::min(maps.kernel[2], all_taps / 2 - first_tap);
  const int64_t shift = maps.shift_of(first_tap), sites = maps.sites;
  int64_t low = std::lower_bound(key, key + sites, key[begin] + shift) - key;
  for (int64_t site = begin; site < end; ++site) {
    int64_t wanted = key[site] + shift;
    while (low < sites && key[low] < wanted) ++low;
    int64_t at = low;
    for (int64_t tap = first_tap; tap < first_tap + taps; ++tap, wanted += step) {
      while (at < sites && key[at] < wanted) ++at;
      if (at == sites || key[at] != wanted) continue;
      maps.table[tap * sites + site] = static_cast<int32_t>(at);
      maps.table[(all_taps - 1 - tap) * sites + at] = static_cast<int32_t>(site);
    }
  }
}

Tensor submanifold_table(
    Tensor index, std::vector<int64_t> shape, std::vector<int64_t> kernel,
    std::vector<int64_t> dilation) {
  index = dense(index);
  const int64_t sites = index.size(0);
  Tensor table = new_tensor(index, {product(kernel), sites}, ScalarType::Int);
  SubmanifoldTable functor;
  functor.key.index = index.const_data_ptr<int32_t>();
  functor.sites = sites;
  copy_triple(shape, functor.key.room, "shape");
  copy_triple(kernel, functor.kernel, "kernel");
  copy_triple(dilation, functor.dilation, "dilation");
  for (int axis = 0; axis < 3; ++axis)
    functor.key.room[axis] += functor.kernel[axis] / 2 * functor.dilation[axis];
  functor.table = table.mutable_data_ptr<int32_t>();
  if (sites == 0) return table;
  if (index.is_cuda()) {
    for_each(
        index, product(kernel) * sites, 0, functor, P3D_LAUNCHER(submanifold_table_cuda),
        "submanifold_table");
    return table;
  }
  std::vector<int64_t> keys(static_cast<size_t>(sites));
  parallel(sites, kChunk, [&](int64_t begin, int64_t end) {
    for (int64_t site = begin; site < end; ++site) keys[site] = functor.key(site);
  });
  const int64_t taps = product(kernel), chunks = (sites + kChunk - 1) / kChunk;
  int32_t* to = functor.table;
  parallel(taps * sites, 1 << 16, [&](int64_t begin, int64_t end) {
    std::fill(to + begin, to + end, -1);
  });
  for (int64_t site = 0; site < sites; ++site)
    to[taps / 2 * sites + site] = static_cast<int32_t>(site);
  const int64_t rows = (taps / 2 + kernel[2] - 1) / kernel[2];
  parallel(rows * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t from = task % chunks * kChunk;
      sweep(functor, keys.data(), task / chunks, from, std::min(sites, from + kChunk));
    }
  });
  return table;
}

Tensor turn_table(Tensor table, int64_t inputs) {
  table = dense(table);
  const int64_t taps = table.size(0), outputs = table.size(1);
  Tensor turned = new_tensor(table, {taps, inputs}, ScalarType::Int);
  const TurnTable functor{
      table.const_data_ptr<int32_t>(), outputs, inputs, turned.mutable_data_ptr<int32_t>()};
  if (table.is_cuda()) {
    torch::stable::fill_(turned, -1);
    for_each(table, taps * outputs, 0, functor, P3D_LAUNCHER(turn_table_cuda), "turn_table");
    return turned;
  }
  const RowGemm& gemm = row_gemm();
  std::vector<int32_t> largest(static_cast<size_t>(taps), -1);
  parallel(taps, 1, [&](int64_t begin, int64_t end) {
    constexpr int kBlock = 1024;
    int32_t from[kBlock + 16], to[kBlock + 16];
    for (int64_t tap = begin; tap < end; ++tap) {
      int32_t* row = functor.turned + tap * inputs;
      std::fill(row, row + inputs, -1);
      for (int64_t first = 0; first < outputs; first += kBlock) {
        const auto count = static_cast<int>(std::min<int64_t>(kBlock, outputs - first));
        const int found = gemm.compact(functor.table + tap * outputs + first, count, from, to);
        for (int i = 0; i < found; ++i) {
          largest[tap] = std::max(largest[tap], from[i]);
          if (from[i] < inputs) row[from[i]] = static_cast<int32_t>(first) + to[i];
        }
      }
    }
  });
  for (int32_t input : largest)
    STD_TORCH_CHECK(input < inputs, "turn_table: a table of ", inputs, " inputs names ", input);
  return turned;
}

}  // namespace
}  // namespace perception3d

P3D_CPU_KERNEL(sort_sites)
P3D_KERNEL(submanifold_table)
P3D_KERNEL(turn_table)
