#include "points_in_boxes.h"

#include <algorithm>
#include <cstdlib>

#include "prepare_boxes.h"
#include "torch_glue.h"

namespace perception3d {
namespace {

constexpr int64_t kPointsOfTask = 8192;
// Cells are a quarter of a box wide, so that most points that are in no box meet an empty cell.
constexpr double kCellsOfBox = 4;
constexpr double kMostCells = 128;  // along an axis: the table stays in the second cache

// The boxes of a sample by the cells of a grid seen from above. A box stands in all cells that its
// bounds touch, in rising order, so that few boxes are compared with a point.
class BoxCells {
 public:
  BoxCells(const UprightBox* boxes, int64_t begin, int64_t end) {
    std::vector<Bounds> bounds;
    double extent_sum[2] = {0, 0};
    for (int64_t box = begin; box < end; ++box) {
      // Numbers near the largest would overflow below; nothing is that far away.
      constexpr double kFar = 1e150;
      const UprightBox& one = boxes[box];
      if (!(one.area == one.area) || !(std::fabs(one.x) < kFar && std::fabs(one.y) < kFar))
        continue;
      bounds.push_back(Bounds(boxes[box], box));
      for (int axis = 0; axis < 2; ++axis) {
        const Bounds& last = bounds.back();
        const bool is_first = bounds.size() == 1;
        low_[axis] = is_first ? last.low[axis] : std::min(low_[axis], last.low[axis]);
        high_[axis] = is_first ? last.high[axis] : std::max(high_[axis], last.high[axis]);
        extent_sum[axis] += last.high[axis] - last.low[axis];
      }
    }
    if (bounds.empty()) return;
    for (int axis = 0; axis < 2; ++axis) {
      const double extent = high_[axis] - low_[axis];
      const double wanted = extent * static_cast<double>(bounds.size()) / extent_sum[axis];
      if (!(wanted > 0) || !(extent > 1e-150 && extent < 1e150)) continue;
      cells_[axis] = static_cast<int64_t>(std::min(kCellsOfBox * wanted, kMostCells));
      per_metre_[axis] = static_cast<double>(cells_[axis]) / extent;
    }
    fill(bounds);
  }

  // Calls found(box) for boxes whose cells hold the place until it returns true.
  template <class Found>
  void near(double x, double y, const Found& found) const {
    // Written so that NaN is out of bounds.
    if (!(x >= low_[0] && x <= high_[0] && y >= low_[1] && y <= high_[1])) return;
    const int64_t at = cell(y, 1) * cells_[0] + cell(x, 0);
    for (int32_t i = start_[at]; i < start_[at + 1]; ++i)
      if (found(boxes_[i])) return;
  }

 private:
  struct Bounds {
    double low[2], high[2];
    int64_t box;
    Bounds(const UprightBox& from, int64_t number) : box(number) {
      const double c = std::fabs(from.cosine), s = std::fabs(from.sine);
      const double l = std::fabs(from.half_l), w = std::fabs(from.half_w);
      const double place[2] = {from.x, from.y}, extent[2] = {c * l + s * w, s * l + c * w};
      for (int axis = 0; axis < 2; ++axis) {
        // Room for rounding.
        const double reach = extent[axis] + 1e-9 * (extent[axis] + std::fabs(place[axis]));
        low[axis] = place[axis] - reach;
        high[axis] = place[axis] + reach;
      }
    }
  };

  int64_t cell(double place, int axis) const {
    const auto at = static_cast<int64_t>((place - low_[axis]) * per_metre_[axis]);
    return std::min(at, cells_[axis] - 1);
  }

  template <class Visit>
  void for_cells(const Bounds& bounds, const Visit& visit) const {
    for (int64_t y = cell(bounds.low[1], 1); y <= cell(bounds.high[1], 1); ++y)
      for (int64_t x = cell(bounds.low[0], 0); x <= cell(bounds.high[0], 0); ++x)
        visit(y * cells_[0] + x);
  }

  void fill(const std::vector<Bounds>& bounds) {
    start_.assign(static_cast<size_t>(cells_[0] * cells_[1] + 1), 0);
    for (const Bounds& one : bounds) for_cells(one, [&](int64_t at) { ++start_[at + 1]; });
    for (size_t at = 1; at < start_.size(); ++at) start_[at] += start_[at - 1];
    boxes_.resize(static_cast<size_t>(start_.back()));
    std::vector<int32_t> next(start_.begin(), start_.end() - 1);
    for (const Bounds& one : bounds)
      for_cells(one, [&](int64_t at) { boxes_[next[at]++] = one.box; });
  }

  // Without boxes the bounds are upside down: every place is outside.
  double low_[2] = {1, 1}, high_[2] = {0, 0}, per_metre_[2] = {0, 0};
  int64_t cells_[2] = {1, 1};
  std::vector<int32_t> start_;
  std::vector<int64_t> boxes_;
};

// Calls found(point, box) for every point of a sample and its boxes, in rising order, until it
// returns true for the point.
template <class T, class Found>
void look_up(
    const T* points, const int64_t* point_offsets, const UprightBox* boxes,
    const int64_t* box_offsets, int64_t samples, const Found& found) {
  std::vector<BoxCells> cells;
  for (int64_t sample = 0; sample < samples; ++sample)
    cells.emplace_back(boxes, box_offsets[sample], box_offsets[sample + 1]);
  parallel(point_offsets[samples], kPointsOfTask, [&](int64_t begin, int64_t end) {
    if (begin >= end) return;
    int64_t sample = sample_of_row(point_offsets, samples, begin);
    for (int64_t point = begin; point < end; ++point) {
      while (point >= point_offsets[sample + 1]) ++sample;
      const T* xyz = points + 3 * point;
      cells[sample].near(xyz[0], xyz[1], [&](int64_t box) {
        return is_inside(xyz, boxes[box]) && found(point, box);
      });
    }
  });
}

// What both ops take, checked and as kernels read it.
template <class T>
struct Request {
  Tensor points, boxes, point_offsets, box_offsets;  // boxes prepared

  Request(
      const Tensor& xyz, const Tensor& rows, const Tensor& starts, const Tensor& box_starts,
      ScalarType type, const char* op)
      : points(as_type(xyz, type)),
        boxes(prepared(rows, op)),
        point_offsets(dense(starts)),
        box_offsets(dense(box_starts)) {
    check_offsets(point_offsets, points.size(0), op);
    check_offsets(box_offsets, boxes.size(0), op);
    STD_TORCH_CHECK(point_offsets.size(0) == box_offsets.size(0), op, ": other samples");
  }
  const T* xyz() const { return points.const_data_ptr<T>(); }
  const int64_t* starts() const { return point_offsets.const_data_ptr<int64_t>(); }
  const int64_t* box_starts() const { return box_offsets.const_data_ptr<int64_t>(); }
  int64_t samples() const { return point_offsets.size(0) - 1; }
};

template <class T>
Tensor first_of(const Request<T>& asked) {
  const int64_t count = asked.points.size(0);
  const UprightBox* boxes = boxes_of(asked.boxes);
  Tensor out = new_tensor(asked.points, {count}, ScalarType::Long);
  int64_t* first = out.mutable_data_ptr<int64_t>();
  if (asked.points.is_cuda()) {
    const FirstBox<T> functor{asked.xyz(),        boxes,           asked.starts(),
                              asked.box_starts(), asked.samples(), first};
    for_each(asked.points, count, 1, functor, P3D_LAUNCHER(first_box_cuda), "points_in_boxes");
    return out;
  }
  std::fill(first, first + count, -1);
  look_up(
      asked.xyz(), asked.starts(), boxes, asked.box_starts(), asked.samples(),
      [&](int64_t point, int64_t box) {
        first[point] = box;
        return true;
      });
  return out;
}

// A mask that is false everywhere on the CPU, and not yet filled on CUDA. The CPU's pages are the
// system's zeros until somebody writes to them, and few points lie in boxes: filling all of them
// would take most of the time.
Tensor empty_mask(const Tensor& like, int64_t rows, int64_t columns) {
  if (like.is_cuda() || rows * columns == 0)
    return new_tensor(like, {rows, columns}, ScalarType::Bool);
  void* zeros = std::calloc(static_cast<size_t>(rows * columns), sizeof(bool));
  STD_TORCH_CHECK(zeros != nullptr, "no memory for a mask of ", rows, " x ", columns);
  const std::vector<int64_t> sizes{rows, columns}, strides{columns, 1};
  return torch::stable::from_blob(
      zeros, sizes, strides, like.device(), ScalarType::Bool, [](void* data) { std::free(data); });
}

template <class T>
Tensor mask_of(const Request<T>& asked) {
  const int64_t count = asked.points.size(0), columns = asked.boxes.size(0);
  const UprightBox* boxes = boxes_of(asked.boxes);
  Tensor out = empty_mask(asked.points, count, columns);
  bool* mask = out.mutable_data_ptr<bool>();
  if (asked.points.is_cuda()) {
    const BoxMask<T> functor{
        asked.xyz(), boxes, asked.starts(), asked.box_starts(), asked.samples(), columns, mask};
    for_each(
        asked.points, count * columns, 1, functor, P3D_LAUNCHER(box_mask_cuda),
        "points_in_boxes_mask");
    return out;
  }
  look_up(
      asked.xyz(), asked.starts(), boxes, asked.box_starts(), asked.samples(),
      [&](int64_t point, int64_t box) {
        mask[point * columns + box] = true;
        return false;
      });
  return out;
}

Tensor points_in_boxes(Tensor points, Tensor boxes, Tensor point_offsets, Tensor box_offsets) {
  if (points.scalar_type() == ScalarType::Double)
    return first_of(
        Request<double>(
            points, boxes, point_offsets, box_offsets, ScalarType::Double, "points_in_boxes"));
  return first_of(
      Request<float>(
          points, boxes, point_offsets, box_offsets, ScalarType::Float, "points_in_boxes"));
}

Tensor points_in_boxes_mask(Tensor points, Tensor boxes, Tensor point_offsets, Tensor box_offsets) {
  if (points.scalar_type() == ScalarType::Double)
    return mask_of(
        Request<double>(
            points, boxes, point_offsets, box_offsets, ScalarType::Double, "points_in_boxes_mask"));
  return mask_of(
      Request<float>(
          points, boxes, point_offsets, box_offsets, ScalarType::Float, "points_in_boxes_mask"));
}

}  // namespace
}  // namespace perception3d

P3D_KERNEL(points_in_boxes)
P3D_KERNEL(points_in_boxes_mask)
