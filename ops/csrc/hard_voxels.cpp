// Hard voxelisation on the CPU: one pass that hands out voxels and slots in the order of the
// points. On CUDA the twin runs, which sorts (stable, so with the same result).
#include <algorithm>
#include <limits>

#include "torch_glue.h"

namespace perception3d {
namespace {

// A table of the whole grid is faster than hashing as long as it stays in the cache.
constexpr int64_t kDenseCells = int64_t{1} << 21;
constexpr int kAhead = 16;

// Cell -> voxel by a table of all cells.
class DenseTable {
 public:
  DenseTable(int64_t first_key, int64_t cells, int64_t)
      : first_key_(first_key), voxel_(static_cast<size_t>(cells), -1) {}
  void prefetch(int64_t) const {}
  int32_t& voxel(int64_t key, const std::vector<int64_t>&) {
    return voxel_[static_cast<size_t>(key - first_key_)];
  }

 private:
  int64_t first_key_;
  std::vector<int32_t> voxel_;
};

// Cell -> voxel by open addressing; has at least twice as many places as points. Places hold the
// voxel alone, whose cell the caller knows: that is a quarter of the memory.
class HashTable {
 public:
  HashTable(int64_t, int64_t, int64_t points) {
    while ((int64_t{1} << bits_) < 2 * points) ++bits_;
    mask_ = (uint64_t{1} << bits_) - 1;
    voxel_.assign(mask_ + 1, -1);
  }
  void prefetch(int64_t key) const { __builtin_prefetch(&voxel_[home(key)], 1); }
  int32_t& voxel(int64_t key, const std::vector<int64_t>& key_of_voxel) {
    uint64_t at = home(key);
    while (voxel_[at] >= 0 && key_of_voxel[voxel_[at]] != key) at = (at + 1) & mask_;
    return voxel_[at];
  }

 private:
  // Fibonacci hashing spreads neighbouring cells over the table.
  uint64_t home(int64_t key) const {
    return (static_cast<uint64_t>(key) * 0x9E3779B97F4A7C15ull) >> (64 - bits_);
  }
  int bits_ = 4;
  uint64_t mask_ = 0;
  std::vector<int32_t> voxel_;
};

struct Sample {
  std::vector<int64_t> key;    // of each voxel
  std::vector<int64_t> count;  // points kept in it
  std::vector<int32_t> voxel;  // of each row, -1 where it is not kept
  int64_t kept = 0;
};

template <class Table>
Sample group(
    const int64_t* keys, int64_t points, int64_t first_key, int64_t cells, int64_t max_points,
    int64_t max_voxels) {
  Sample sample;
  sample.voxel.assign(static_cast<size_t>(points), -1);
  Table table(first_key, cells, points);
  for (int64_t row = 0; row < points; ++row) {
    if (row + kAhead < points && keys[row + kAhead] >= 0) table.prefetch(keys[row + kAhead]);
    if (keys[row] < 0) continue;
    int32_t& voxel = table.voxel(keys[row], sample.key);
    if (voxel < 0) {
      voxel = static_cast<int32_t>(sample.key.size());
      sample.key.push_back(keys[row]);
      sample.count.push_back(0);
    }
    // Cells that came after max_voxels others are known, to be refused again.
    if (voxel >= max_voxels || sample.count[voxel] == max_points) continue;
    ++sample.count[voxel];
    ++sample.kept;
    sample.voxel[row] = voxel;
  }
  const auto voxels = std::min(sample.key.size(), static_cast<size_t>(max_voxels));
  sample.key.resize(voxels);
  sample.count.resize(voxels);
  return sample;
}

// Writes the cells of the voxels as sample, z, y, x. Small grids divide by small numbers, which
// takes half the time.
template <class Number>
void write_cells(
    const std::vector<int64_t>& keys, int64_t first_key, int64_t sample, Number nx, Number ny,
    int64_t* to) {
  for (int64_t key : keys) {
    const auto cell = static_cast<Number>(key - first_key), row = cell / nx;
    to[0] = sample;
    to[1] = row / ny;
    to[2] = row % ny;
    to[3] = cell % nx;
    to += 4;
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> hard_voxels(
    Tensor key, Tensor offsets, std::vector<int64_t> cells, int64_t max_points,
    int64_t max_voxels) {
  const int64_t cells_of_sample = cells[0] * cells[1] * cells[2];
  key = dense(key);
  offsets = dense(offsets);
  check_offsets(offsets, key.size(0), "hard_voxels");
  const int64_t* keys = key.const_data_ptr<int64_t>();
  const int64_t* begin = offsets.const_data_ptr<int64_t>();
  const int64_t samples = offsets.size(0) - 1;
  STD_TORCH_CHECK(key.size(0) < (int64_t{1} << 31), "more than 2^31 points");

  std::vector<Sample> parts(static_cast<size_t>(samples));
  parallel(samples, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      const auto run = cells_of_sample <= kDenseCells ? group<DenseTable> : group<HashTable>;
      parts[b] =
          run(keys + begin[b], begin[b + 1] - begin[b], b * cells_of_sample, cells_of_sample,
              max_points, max_voxels);
    }
  });

  std::vector<int64_t> voxels_before(static_cast<size_t>(samples) + 1, 0);
  std::vector<int64_t> rows_before(static_cast<size_t>(samples) + 1, 0);
  for (int64_t b = 0; b < samples; ++b) {
    voxels_before[b + 1] = voxels_before[b] + static_cast<int64_t>(parts[b].key.size());
    rows_before[b + 1] = rows_before[b] + parts[b].kept;
  }
  Tensor index = new_tensor(key, {voxels_before[samples], 4}, ScalarType::Long);
  Tensor count = new_tensor(key, {voxels_before[samples]}, ScalarType::Long);
  Tensor point = new_tensor(key, {rows_before[samples]}, ScalarType::Long);
  Tensor voxel = new_tensor(key, {rows_before[samples]}, ScalarType::Long);
  int64_t* points_out = point.mutable_data_ptr<int64_t>();
  int64_t* voxel_out = voxel.mutable_data_ptr<int64_t>();
  int64_t* index_out = index.mutable_data_ptr<int64_t>();
  int64_t* count_out = count.mutable_data_ptr<int64_t>();
  parallel(samples, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      const Sample& part = parts[b];
      const int64_t voxel_base = voxels_before[b];
      const int64_t first_key = b * cells_of_sample;
      int64_t* index_of_sample = index_out + 4 * voxel_base;
      if (cells_of_sample <= std::numeric_limits<uint32_t>::max())
        write_cells<uint32_t>(part.key, first_key, b, cells[0], cells[1], index_of_sample);
      else
        write_cells<int64_t>(part.key, first_key, b, cells[0], cells[1], index_of_sample);
      std::copy(part.count.begin(), part.count.end(), count_out + voxel_base);
      std::vector<int64_t> next(part.key.size());
      int64_t row = rows_before[b];
      for (size_t v = 0; v < part.count.size(); ++v) {
        next[v] = row;
        for (int64_t slot = 0; slot < part.count[v]; ++slot)
          voxel_out[row++] = voxel_base + static_cast<int64_t>(v);
      }
      for (size_t p = 0; p < part.voxel.size(); ++p)
        if (part.voxel[p] >= 0)
          points_out[next[part.voxel[p]]++] = begin[b] + static_cast<int64_t>(p);
    }
  });
  return {index, count, point, voxel};
}

}  // namespace
}  // namespace perception3d

P3D_CPU_KERNEL(hard_voxels)
