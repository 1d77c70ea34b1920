// Suppression. rotated_nms and circle_nms are the CPU's own way: rows are taken best first and
// compared with the kept rows near them alone, which a grid of lists finds. The ops for bits and
// their sweep serve CUDA, and run here so that they are tested.
#include "box_nms.h"

#include <algorithm>

#include "prepare_boxes.h"
#include "torch_glue.h"

namespace perception3d {
namespace {

struct Ranked {
  double score;
  int64_t row;
  bool operator<(const Ranked& other) const {
    return score > other.score || (score == other.score && row < other.row);
  }
};

struct Limits {
  int64_t before, after;  // rows that enter and leave a sample; negative for no limit
};

// The rows of a sample, best first; NaN scores are left out.
std::vector<Ranked> ranked_rows(const double* score, int64_t begin, int64_t end, int64_t limit) {
  std::vector<Ranked> rows;
  rows.reserve(static_cast<size_t>(end - begin));
  for (int64_t row = begin; row < end; ++row)
    if (score[row] == score[row]) rows.push_back({score[row], row});
  if (limit >= 0 && limit < static_cast<int64_t>(rows.size())) {
    std::nth_element(rows.begin(), rows.begin() + limit, rows.end());
    rows.resize(static_cast<size_t>(limit));
  }
  std::sort(rows.begin(), rows.end());
  return rows;
}

struct Disc {
  double x, y, reach;
  bool is_finite() const {
    const double sum = x + y + reach;
    return sum - sum == 0;
  }
};

// Discs by the cell of their centre. Cells may be coarse, never wrong: whoever is out of bounds
// goes to the outermost cell, and the cell is a monotone function of the place.
class NearLists {
 public:
  NearLists(const std::vector<Disc>& discs) : next_(discs.size(), -1) {
    double high[2], reach = 0;
    int64_t count = 0;
    for (const Disc& disc : discs) {
      if (!disc.is_finite()) continue;
      const double place[2] = {disc.x, disc.y};
      for (int axis = 0; axis < 2; ++axis) {
        low_[axis] = count == 0 ? place[axis] : std::min(low_[axis], place[axis]);
        high[axis] = count == 0 ? place[axis] : std::max(high[axis], place[axis]);
      }
      reach += disc.reach;
      ++count;
    }
    if (count == 0) return;
    const double most = std::min(512.0, 1 + std::sqrt(static_cast<double>(count)));
    for (int axis = 0; axis < 2; ++axis) {
      const double extent = high[axis] - low_[axis];
      const double side = std::max(2 * reach / static_cast<double>(count), extent / most);
      if (!(side > 1e-150 && side < 1e150)) continue;  // all in one place, or too far for doubles
      per_metre_[axis] = 1 / side;
      cells_[axis] = 1 + static_cast<int64_t>(extent * per_metre_[axis]);
    }
    head_.assign(static_cast<size_t>(cells_[0] * cells_[1]), -1);
  }

  void add(int32_t number, const Disc& disc) {
    int32_t& head = head_[cell(disc.y, 1) * cells_[0] + cell(disc.x, 0)];
    next_[number] = head;
    head = number;
    reach_ = std::max(reach_, disc.reach);
  }

  // Whether hit(number) holds for one of those whose disc may touch this one.
  template <class Hit>
  bool any(const Disc& disc, const Hit& hit) const {
    double reach = disc.reach + reach_;
    // Room for rounding.
    reach += 1e-9 * (reach + std::fabs(disc.x) + std::fabs(disc.y));
    const int64_t x0 = cell(disc.x - reach, 0), x1 = cell(disc.x + reach, 0);
    const int64_t y0 = cell(disc.y - reach, 1), y1 = cell(disc.y + reach, 1);
    for (int64_t y = y0; y <= y1; ++y)
      for (int64_t x = x0; x <= x1; ++x)
        for (int32_t i = head_[y * cells_[0] + x]; i >= 0; i = next_[i])
          if (hit(i)) return true;
    return false;
  }

 private:
  int64_t cell(double place, int axis) const {
    const double at = (place - low_[axis]) * per_metre_[axis];
    if (!(at > 0)) return 0;
    const double last = static_cast<double>(cells_[axis] - 1);
    return static_cast<int64_t>(at < last ? at : last);
  }

  double low_[2] = {0, 0}, per_metre_[2] = {0, 0}, reach_ = 0;
  int64_t cells_[2] = {1, 1};
  std::vector<int32_t> head_ = std::vector<int32_t>(1, -1), next_;
};

// Overlap above the threshold, with what rules it out cheaply first.
struct RotatedRule {
  const UprightBox* boxes;
  double threshold;
  Disc disc(int64_t row) const {
    const UprightBox& box = boxes[row];
    return {box.x, box.y, box.area == box.area ? box.reach : box.area};
  }
  bool operator()(int64_t better, int64_t worse) const {
    const UprightBox &one = boxes[better], &other = boxes[worse];
    if (!circles_touch(one, other)) return false;
    // The bound with room for rounding.
    const double most = most_shared_area(one, other) * (1 + 1e-12);
    if (most <= threshold * (one.area + other.area - most)) return false;
    return box_overlap_of(one, other, false) > threshold;
  }
};

struct CircleRule {
  CircleHit hit;
  Disc disc(int64_t row) const {
    return {hit.centers[2 * row], hit.centers[2 * row + 1], std::sqrt(hit.threshold_sq) / 2};
  }
  bool operator()(int64_t better, int64_t worse) const { return hit(better, worse); }
};

template <class Rule>
std::vector<int64_t> kept_rows(
    const Rule& rule, const double* score, const int64_t* label, int64_t begin, int64_t end,
    Limits limits) {
  const std::vector<Ranked> rows = ranked_rows(score, begin, end, limits.before);
  std::vector<Disc> discs(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) discs[i] = rule.disc(rows[i].row);
  NearLists near(discs);
  std::vector<int64_t> kept;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (limits.after >= 0 && static_cast<int64_t>(kept.size()) >= limits.after) break;
    const int64_t row = rows[i].row;
    if (discs[i].is_finite()) {
      if (near.any(discs[i], [&](int32_t other) {
            return label[rows[other].row] == label[row] && rule(rows[other].row, row);
          }))
        continue;
      near.add(static_cast<int32_t>(i), discs[i]);
    }
    kept.push_back(row);  // what is not finite is near nothing
  }
  return kept;
}

template <class Rule>
Tensor suppress(
    const Rule& rule, const Tensor& scores, const Tensor& labels, const Tensor& offsets,
    Limits limits) {
  const Tensor score = as_type(scores, ScalarType::Double);
  const Tensor label = dense(labels), offset = dense(offsets);
  check_offsets(offset, scores.size(0), "suppression");
  const int64_t samples = offset.size(0) - 1;
  const int64_t* start = offset.const_data_ptr<int64_t>();
  std::vector<std::vector<int64_t>> kept(static_cast<size_t>(samples));
  parallel(samples, 1, [&](int64_t begin, int64_t end) {
    for (int64_t sample = begin; sample < end; ++sample)
      kept[sample] = kept_rows(
          rule, score.const_data_ptr<double>(), label.const_data_ptr<int64_t>(), start[sample],
          start[sample + 1], limits);
  });
  int64_t total = 0;
  for (const auto& rows : kept) total += static_cast<int64_t>(rows.size());
  Tensor out = new_tensor(label, {total}, ScalarType::Long);
  int64_t* to = out.mutable_data_ptr<int64_t>();
  for (const auto& rows : kept) to = std::copy(rows.begin(), rows.end(), to);
  return out;
}

Tensor rotated_nms(
    Tensor boxes, Tensor scores, Tensor labels, Tensor offsets, double threshold, int64_t pre_limit,
    int64_t post_limit) {
  const Tensor ready = prepared(boxes, "rotated_nms");
  const RotatedRule rule{boxes_of(ready), threshold};
  return suppress(rule, scores, labels, offsets, {pre_limit, post_limit});
}

Tensor circle_nms(
    Tensor centers, Tensor scores, Tensor labels, Tensor offsets, double threshold_sq,
    int64_t pre_limit, int64_t post_limit) {
  centers = as_type(centers, ScalarType::Double);
  const CircleRule rule{{centers.const_data_ptr<double>(), threshold_sq}};
  return suppress(rule, scores, labels, offsets, {pre_limit, post_limit});
}

template <class Hit>
Tensor bits_of(
    const Hit& hit, Tensor labels, Tensor first, Tensor alive, int64_t words, const char* op) {
  labels = dense(labels);
  first = dense(first);
  alive = dense(alive);
  const int64_t rows = labels.size(0);
  Tensor bits = new_tensor(labels, {rows, words}, ScalarType::Long);
  const SuppressionBits<Hit> functor{
      hit,
      labels.const_data_ptr<int64_t>(),
      first.const_data_ptr<int64_t>(),
      alive.const_data_ptr<bool>(),
      rows,
      words,
      bits.mutable_data_ptr<int64_t>()};
  for_each(labels, rows * words, 64, functor, P3D_LAUNCHER(suppression_bits_cuda), op);
  return bits;
}

Tensor rotated_bits(
    Tensor boxes, Tensor labels, Tensor first, Tensor alive, double threshold, int64_t words) {
  const Tensor ready = prepared(boxes, "rotated_bits");
  return bits_of(
      OverlapHit{boxes_of(ready), threshold}, labels, first, alive, words, "rotated_bits");
}

Tensor circle_bits(
    Tensor centers, Tensor labels, Tensor first, Tensor alive, double threshold_sq, int64_t words) {
  centers = as_type(centers, ScalarType::Double);
  return bits_of(
      CircleHit{centers.const_data_ptr<double>(), threshold_sq}, labels, first, alive, words,
      "circle_bits");
}

Tensor sweep_bits(Tensor bits, Tensor alive, Tensor offsets) {
  bits = dense(bits);
  alive = dense(alive);
  offsets = dense(offsets);
  check_offsets(offsets, bits.size(0), "sweep_bits");
  const int64_t samples = offsets.size(0) - 1, words = bits.size(1);
  Tensor kept = new_tensor(bits, {bits.size(0)}, ScalarType::Bool);
  Tensor removed = torch::stable::new_zeros(bits, {samples, words}, ScalarType::Long);
  const SweepBits functor{
      bits.const_data_ptr<int64_t>(),
      alive.const_data_ptr<bool>(),
      offsets.const_data_ptr<int64_t>(),
      words,
      reinterpret_cast<uint64_t*>(removed.mutable_data_ptr<int64_t>()),
      kept.mutable_data_ptr<bool>()};
  for_each(bits, samples, 1, functor, P3D_LAUNCHER(sweep_bits_cuda), "sweep_bits");
  return kept;
}

}  // namespace
}  // namespace perception3d

P3D_CPU_KERNEL(rotated_nms)
P3D_CPU_KERNEL(circle_nms)
P3D_KERNEL(rotated_bits)
P3D_KERNEL(circle_bits)
P3D_KERNEL(sweep_bits)
