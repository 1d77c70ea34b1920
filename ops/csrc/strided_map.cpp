// Map of a strided convolution on the CPU, one row of output cells along x after the other. A row's
// cells are bytes in the fastest cache: the input rows that feed it mark them, and sites come out
// sorted, with no hash table and no sort. For each pair of taps along z and y both rows ascend
// together, so a merge finds the input rows. A task is an output plane (sample, z).
#include <algorithm>
#include <limits>

#include "sparse_maps.h"
#include "torch_glue.h"

namespace perception3d {
namespace {

constexpr int32_t kNone = std::numeric_limits<int32_t>::max();
constexpr uint64_t kEachByte = 0x0101010101010101;

// Along x: the outputs that each input cell feeds, and through which tap. Every cell has as many
// entries as the one with the most, so that loops over them have one length: its last is repeated,
// and where a cell feeds nothing, they are kNone.
struct StepsAlongX {
  struct Step {
    int32_t tap, to;
  };
  std::vector<Step> steps;
  int64_t each = 0;

  StepsAlongX(const TapStep& step, int64_t cells, int64_t taps) {
    const auto found = [&](int64_t cell, Step* to) {
      int64_t count = 0;
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t fed = step.along(2, cell, tap);
        if (fed < 0) continue;
        if (to != nullptr) to[count] = {static_cast<int32_t>(tap), static_cast<int32_t>(fed)};
        ++count;
      }
      return count;
    };
    for (int64_t cell = 0; cell < cells; ++cell) each = std::max(each, found(cell, nullptr));
    steps.resize(static_cast<size_t>(cells * each), Step{0, kNone});
    for (int64_t cell = 0; cell < cells; ++cell) {
      Step* of_cell = steps.data() + cell * each;
      const int64_t count = found(cell, of_cell);
      if (count > 0) std::fill(of_cell + count, of_cell + each, of_cell[count - 1]);
    }
  }
};

// Sites that share sample, z and y, which follow each other.
struct InputRows {
  std::vector<int32_t> y, first;  // of each row; first: its first site, and one more
  std::vector<int32_t> start;     // of each plane (sample, z): its first row, and one more

  InputRows(const int32_t* at, int64_t sites, int64_t planes, int64_t depth)
      : start(static_cast<size_t>(planes + 1)) {
    for (int64_t site = 0; site < sites; ++site, at += 4) {
      if (site > 0 && std::equal(at, at + 3, at - 4)) continue;
      y.push_back(at[2]);
      first.push_back(static_cast<int32_t>(site));
      ++start[static_cast<size_t>(at[0] * depth + at[1] + 1)];
    }
    first.push_back(static_cast<int32_t>(sites));
    for (size_t plane = 1; plane < start.size(); ++plane) start[plane] += start[plane - 1];
  }
};

class StridedMap {
 public:
  StridedMap(
      const Tensor& index, int64_t batch_size, const int64_t (&in_shape)[3],
      const int64_t (&kernel)[3], const TapStep& step)
      : at_(index.const_data_ptr<int32_t>()),
        taps_{kernel[0], kernel[1], kernel[2]},
        step_(step),
        depth_in_(in_shape[0]),
        height_in_(in_shape[1]),
        x_(step, in_shape[2], kernel[2]),
        rows_(at_, index.size(0), batch_size * in_shape[0], in_shape[0]),
        planes_in_(static_cast<size_t>(step.out_shape[0])),
        along_y_(static_cast<size_t>(kernel[1] * in_shape[1])) {
    for (int64_t z = 0; z < in_shape[0]; ++z)
      for (int64_t tap = 0; tap < kernel[0]; ++tap) {
        const int64_t to = step.along(0, z, tap);
        if (to >= 0) planes_in_[to].push_back({static_cast<int32_t>(tap), z});
      }
    for (int64_t tap = 0; tap < kernel[1]; ++tap)
      for (int64_t y = 0; y < height_in_; ++y)
        along_y_[tap * height_in_ + y] = static_cast<int32_t>(step.along(1, y, tap));
    words_ = (step.out_shape[2] + 7) / 8;
  }

  // Output sites of a plane, numbered sample nz + z.
  int64_t count(int64_t plane) const {
    int64_t total = 0;
    std::vector<uint64_t> marks(static_cast<size_t>(words_));
    for_each_row(plane, [&](int32_t, const std::vector<Feed>& feeds) {
      mark(feeds, marks);
      for (uint64_t& word : marks)  // the sum of its bytes
        total += static_cast<int64_t>((std::exchange(word, 0) * kEachByte) >> 56);
    });
    return total;
  }

  // Writes the outputs of a plane, of which the first is row `first` of `outputs`.
  void write(int64_t plane, int64_t first, int64_t outputs, int32_t* index, int32_t* table) const {
    std::vector<uint64_t> marks(static_cast<size_t>(words_));
    std::vector<int32_t> row_of(static_cast<size_t>(step_.out_shape[2]));
    const auto sample = static_cast<int32_t>(plane / step_.out_shape[0]);
    const auto z = static_cast<int32_t>(plane % step_.out_shape[0]);
    auto row = static_cast<int32_t>(first);
    for_each_row(plane, [&](int32_t y, const std::vector<Feed>& feeds) {
      mark(feeds, marks);
      for (int64_t word = 0; word < words_; ++word)
        for (uint64_t rest = std::exchange(marks[word], 0); rest != 0; rest &= rest - 1, ++row) {
          const auto x = static_cast<int32_t>(word * 8 + __builtin_ctzll(rest) / 8);
          int32_t* to = index + 4 * static_cast<int64_t>(row);
          to[0] = sample, to[1] = z, to[2] = y, to[3] = x;
          row_of[x] = row;
        }
      for_each_pair(feeds, [&](int64_t tap, int32_t site, int32_t x) {
        table[tap * outputs + row_of[x]] = site;
      });
    });
  }

 private:
  // An input row and the taps along z and y (as the number of the first along x) through which it
  // feeds an output row.
  struct Feed {
    int64_t tap;
    int32_t row;
  };
  struct Plane {
    int32_t tap;
    int64_t z;
  };
  // Input rows of one plane that one tap along y leads out of, in order.
  struct Stream {
    int64_t tap;
    const int32_t* along;
    int32_t row, end;
    int32_t to;  // the output row that the next of them feeds, or kNone

    void settle(const std::vector<int32_t>& y) {
      while (row < end && along[y[row]] < 0) ++row;
      to = row < end ? along[y[row]] : kNone;
    }
  };

  template <class Visit>
  void for_each_row(int64_t plane, const Visit& visit) const {
    const int64_t sample = plane / step_.out_shape[0];
    std::vector<Stream> streams;
    for (const Plane& from : planes_in_[plane % step_.out_shape[0]])
      for (int64_t tap = 0; tap < taps_[1]; ++tap) {
        const int64_t number = sample * depth_in_ + from.z;
        Stream stream{
            (from.tap * taps_[1] + tap) * taps_[2], along_y_.data() + tap * height_in_,
            rows_.start[number], rows_.start[number + 1], kNone};
        stream.settle(rows_.y);
        streams.push_back(stream);
      }
    std::vector<Feed> feeds;
    while (true) {
      int32_t next = kNone;
      for (const Stream& stream : streams) next = std::min(next, stream.to);
      if (next == kNone) return;
      feeds.clear();
      for (Stream& stream : streams) {
        if (stream.to != next) continue;
        feeds.push_back({stream.tap, stream.row++});
        stream.settle(rows_.y);
      }
      visit(next, feeds);
    }
  }

  // Calls visit(tap, site, x of the output).
  template <class Visit>
  void for_each_pair(const std::vector<Feed>& feeds, const Visit& visit) const {
    for (const Feed& feed : feeds)
      for (int32_t site = rows_.first[feed.row]; site < rows_.first[feed.row + 1]; ++site) {
        const auto* step = x_.steps.data() + at_[4 * static_cast<int64_t>(site) + 3] * x_.each;
        for (const auto* end = step + x_.each; step != end && step->to != kNone; ++step)
          visit(feed.tap + step->tap, site, step->to);
      }
  }

  // Sets the byte of each cell that is fed, lowest bit first.
  void mark(const std::vector<Feed>& feeds, std::vector<uint64_t>& marks) const {
    for_each_pair(feeds, [&](int64_t, int32_t, int32_t x) {
      reinterpret_cast<unsigned char*>(marks.data())[x] = 1;
    });
  }

  const int32_t* at_;
  int64_t taps_[3];
  TapStep step_;
  int64_t depth_in_, height_in_, words_;
  StepsAlongX x_;
  InputRows rows_;
  std::vector<std::vector<Plane>> planes_in_;  // that feed each output plane
  std::vector<int32_t> along_y_;               // (taps, cells): the output row, or -1
};

std::tuple<Tensor, Tensor> strided_map(
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
  const StridedMap map(index, batch_size, cells_in, size, step);

  const int64_t planes = batch_size * out_shape[0];
  std::vector<int64_t> first(static_cast<size_t>(planes + 1));
  parallel(planes, 1, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) first[plane + 1] = map.count(plane);
  });
  for (int64_t plane = 0; plane < planes; ++plane) first[plane + 1] += first[plane];
  const int64_t count = first[planes], taps = size[0] * size[1] * size[2];
  STD_TORCH_CHECK(count < (int64_t{1} << 31), "more than 2^31 output sites");

  Tensor out_index = new_tensor(index, {count, 4}, ScalarType::Int);
  Tensor table = new_tensor(index, {taps, count}, ScalarType::Int);
  auto* at = out_index.mutable_data_ptr<int32_t>();
  auto* to = table.mutable_data_ptr<int32_t>();
  parallel(planes, 1, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      for (int64_t tap = 0; tap < taps; ++tap)
        std::fill(to + tap * count + first[plane], to + tap * count + first[plane + 1], -1);
      map.write(plane, first[plane], count, at, to);
    }
  });
  return {out_index, table};
}

}  // namespace
}  // namespace perception3d

P3D_CPU_KERNEL(strided_map)
