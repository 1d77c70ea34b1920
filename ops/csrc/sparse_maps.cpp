#include "sparse_maps.h"

#include <algorithm>

#include "radix_sort.h"
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

// Output cells as bits of the whole grid: setting one marks a site, counting those before it ranks
// it, and sites come out sorted. Grids of more bits than this are sorted instead.
constexpr int64_t kMostBits = int64_t{1} << 33;

class BitRanks {
 public:
  explicit BitRanks(int64_t cells) : words_(static_cast<size_t>((cells + 63) / 64)) {}
  void add(int64_t cell) { words_[cell >> 6] |= uint64_t{1} << (cell & 63); }
  void finish() {
    before_.resize(words_.size());
    int64_t total = 0;
    for (size_t word = 0; word < words_.size(); ++word) {
      before_[word] = static_cast<int32_t>(total);
      total += __builtin_popcountll(words_[word]);
    }
    count_ = total;
  }
  int64_t count() const { return count_; }
  int32_t rank(int64_t cell) const {
    const uint64_t below = words_[cell >> 6] & ((uint64_t{1} << (cell & 63)) - 1);
    return before_[cell >> 6] + __builtin_popcountll(below);
  }
  template <class Emit>
  void for_each(const Emit& emit) const {
    for (size_t word = 0; word < words_.size(); ++word)
      for (uint64_t rest = words_[word]; rest != 0; rest &= rest - 1)
        emit(static_cast<int64_t>(word) * 64 + __builtin_ctzll(rest));
  }

 private:
  std::vector<uint64_t> words_;
  std::vector<int32_t> before_;
  int64_t count_ = 0;
};

class SortedRanks {
 public:
  explicit SortedRanks(int64_t) {}
  void add(int64_t cell) { cells_.push_back(cell); }
  void finish() {
    std::sort(cells_.begin(), cells_.end());
    cells_.erase(std::unique(cells_.begin(), cells_.end()), cells_.end());
  }
  int64_t count() const { return static_cast<int64_t>(cells_.size()); }
  int32_t rank(int64_t cell) const {
    return static_cast<int32_t>(
        std::lower_bound(cells_.begin(), cells_.end(), cell) - cells_.begin());
  }
  template <class Emit>
  void for_each(const Emit& emit) const {
    for (int64_t cell : cells_) emit(cell);
  }

 private:
  std::vector<int64_t> cells_;
};

// Along one axis: the outputs that each input cell feeds, and through which tap.
struct AxisSteps {
  struct Step {
    int32_t tap, to;
  };
  std::vector<Step> steps;
  std::vector<int32_t> start;  // of each cell, and one more

  AxisSteps(const TapStep& step, int axis, int64_t cells, int64_t taps) : start{0} {
    for (int64_t cell = 0; cell < cells; ++cell) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t to = step.along(axis, cell, tap);
        if (to >= 0) steps.push_back({static_cast<int32_t>(tap), static_cast<int32_t>(to)});
      }
      start.push_back(static_cast<int32_t>(steps.size()));
    }
  }
  const Step* begin(int32_t cell) const { return steps.data() + start[cell]; }
  const Step* end(int32_t cell) const { return steps.data() + start[cell + 1]; }
};

struct Steps {
  AxisSteps z, y, x;
  int64_t taps_y, taps_x, shape[3];

  // Calls visit(tap, output cell) for every output that a site feeds.
  template <class Visit>
  void for_each(const int32_t* at, const Visit& visit) const {
    for (auto a = z.begin(at[1]); a != z.end(at[1]); ++a)
      for (auto b = y.begin(at[2]); b != y.end(at[2]); ++b) {
        const int64_t row = ((at[0] * shape[0] + a->to) * shape[1] + b->to) * shape[2];
        const int64_t tap = (a->tap * taps_y + b->tap) * taps_x;
        for (auto c = x.begin(at[3]); c != x.end(at[3]); ++c) visit(tap + c->tap, row + c->to);
      }
  }
};

template <class Ranks>
std::tuple<Tensor, Tensor, Tensor> map_with(
    const Tensor& index, int64_t cells, const Steps& steps, int64_t taps) {
  const int64_t sites = index.size(0);
  const int32_t* at = index.const_data_ptr<int32_t>();
  Ranks ranks(cells);
  for (int64_t site = 0; site < sites; ++site)
    steps.for_each(at + 4 * site, [&](int64_t, int64_t cell) { ranks.add(cell); });
  ranks.finish();

  const int64_t count = ranks.count();
  STD_TORCH_CHECK(count < (int64_t{1} << 31), "more than 2^31 output sites");
  Tensor out_index = new_tensor(index, {count, 4}, ScalarType::Int);
  Tensor table = new_tensor(index, {taps, count}, ScalarType::Int);
  Tensor back = new_tensor(index, {taps, sites}, ScalarType::Int);
  int32_t* out = out_index.mutable_data_ptr<int32_t>();
  ranks.for_each([&](int64_t cell) {
    write_site(cell, steps.shape, out);
    out += 4;
  });
  int32_t* to = table.mutable_data_ptr<int32_t>();
  int32_t* from = back.mutable_data_ptr<int32_t>();
  parallel(taps * count, 1 << 16, [&](int64_t a, int64_t b) { std::fill(to + a, to + b, -1); });
  parallel(taps * sites, 1 << 16, [&](int64_t a, int64_t b) { std::fill(from + a, from + b, -1); });
  // Through one tap an output reads one input at most, so no two sites write the same place.
  parallel(sites, kChunk, [&](int64_t begin, int64_t end) {
    for (int64_t site = begin; site < end; ++site)
      steps.for_each(at + 4 * site, [&](int64_t tap, int64_t cell) {
        const int32_t row = ranks.rank(cell);
        to[tap * count + row] = static_cast<int32_t>(site);
        from[tap * sites + site] = row;
      });
  });
  return {out_index, table, back};
}

std::tuple<Tensor, Tensor, Tensor> strided_map(
    Tensor index, int64_t batch_size, std::vector<int64_t> in_shape, std::vector<int64_t> out_shape,
    std::vector<int64_t> kernel, std::vector<int64_t> stride, std::vector<int64_t> padding,
    std::vector<int64_t> dilation, bool transposed) {
  index = dense(index);
  check_sites(index, batch_size, in_shape);
  int64_t size[3], cells_in[3];
  copy_triple(in_shape, cells_in, "in_shape");
  copy_triple(kernel, size, "kernel");
  TapStep step;
  copy_triple(out_shape, step.out_shape, "out_shape");
  copy_triple(stride, step.stride, "stride");
  copy_triple(padding, step.padding, "padding");
  copy_triple(dilation, step.dilation, "dilation");
  step.transposed = transposed;
  const Steps steps{
      AxisSteps(step, 0, cells_in[0], size[0]),
      AxisSteps(step, 1, cells_in[1], size[1]),
      AxisSteps(step, 2, cells_in[2], size[2]),
      size[1],
      size[2],
      {out_shape[0], out_shape[1], out_shape[2]}};
  const int64_t cells = batch_size * product(out_shape), taps = product(kernel);
  if (cells <= kMostBits) return map_with<BitRanks>(index, cells, steps, taps);
  return map_with<SortedRanks>(index, cells, steps, taps);
}

}  // namespace
}  // namespace perception3d

P3D_CPU_KERNEL(sort_sites)
P3D_KERNEL(submanifold_table)
P3D_CPU_KERNEL(strided_map)
