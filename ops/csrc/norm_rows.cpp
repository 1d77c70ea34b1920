// Batch norm over rows, residual and ReLU on the CPU, by blocks that fit into the first cache.
// Which rows a block holds depends on sizes alone, so the sums have one order, whatever the
// threads.
#include <algorithm>
#include <cmath>

#include "torch_glue.h"

namespace perception3d {
namespace {

constexpr int64_t kFewestRows = 2;      // that have statistics
constexpr int64_t kNumbers = 8192;      // of a block
constexpr int64_t kMostChannels = 128;  // that are worked on together

// The (N, C) numbers in blocks of rows; channels in strips, so that a strip's sums stay in vectors.
struct Blocks {
  int64_t rows, channels, height, count;

  Blocks(int64_t rows_, int64_t channels_)
      : rows(rows_),
        channels(channels_),
        height(std::clamp<int64_t>(kNumbers / std::max<int64_t>(channels_, 1), 16, 512)),
        count((rows_ + height - 1) / height) {}

  // body(block, first row, past the last row, first channel, channels)
  template <class Body>
  void for_each(const Body& body) const {
    parallel(count, 4, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block)
        for (int64_t c = 0; c < channels; c += kMostChannels)
          body(
              block, block * height, std::min(rows, (block + 1) * height), c,
              std::min(kMostChannels, channels - c));
    });
  }
};

// Mean and variance of each channel: of each block first, which are then joined pair by pair
// (Chan, Golub, LeVeque 1983), as a sum of squares would lose what is left after subtraction.
template <class T>
void measure(const T* x, const Blocks& blocks, T* mean, T* variance) {
  const int64_t wide = blocks.channels;
  std::vector<T> means(static_cast<size_t>(blocks.count * wide)), squares(means.size());
  blocks.for_each([&](int64_t block, int64_t from, int64_t to, int64_t first, int64_t channels) {
    T sum[kMostChannels] = {}, square[kMostChannels] = {}, middle[kMostChannels];
    // From the first row on: far from zero a plain sum has no digits left for the differences.
    const T* start = x + from * wide + first;
    for (int64_t row = from; row < to; ++row)
      for (int64_t c = 0; c < channels; ++c) sum[c] += x[row * wide + first + c] - start[c];
    for (int64_t c = 0; c < channels; ++c)
      middle[c] = start[c] + sum[c] / static_cast<T>(to - from);
    for (int64_t row = from; row < to; ++row)
      for (int64_t c = 0; c < channels; ++c) {
        const T away = x[row * wide + first + c] - middle[c];
        square[c] += away * away;
      }
    std::copy(middle, middle + channels, means.data() + block * wide + first);
    std::copy(square, square + channels, squares.data() + block * wide + first);
  });
  std::vector<double> middle(static_cast<size_t>(wide)), square(middle.size());
  for (int64_t block = 0; block < blocks.count; ++block) {
    const int64_t before = block * blocks.height;
    const auto here = static_cast<double>(std::min(blocks.height, blocks.rows - before));
    const double share = here / (static_cast<double>(before) + here);
    const double lever = static_cast<double>(before) * share;
    for (int64_t c = 0; c < wide; ++c) {
      const double away = static_cast<double>(means[block * wide + c]) - middle[c];
      middle[c] += away * share;
      square[c] += static_cast<double>(squares[block * wide + c]) + away * away * lever;
    }
  }
  for (int64_t c = 0; c < wide; ++c) {
    mean[c] = static_cast<T>(middle[c]);
    variance[c] = static_cast<T>(square[c] / static_cast<double>(blocks.rows));
  }
}

template <class T>
std::tuple<Tensor, Tensor, Tensor> normalize(
    const Tensor& rows, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
    const Tensor& running_variance, const Tensor* residual, double eps, bool rectify,
    ScalarType type) {
  const Blocks blocks(rows.size(0), rows.size(1));
  const int64_t wide = blocks.channels;
  Tensor out = new_tensor(rows, {blocks.rows, wide}, type);
  Tensor mean = new_tensor(rows, {wide}, type), variance = new_tensor(rows, {wide}, type);
  const T* x = rows.const_data_ptr<T>();
  T* middle = mean.mutable_data_ptr<T>();
  T* spread = variance.mutable_data_ptr<T>();
  if (blocks.rows >= kFewestRows) {
    measure(x, blocks, middle, spread);
  } else {
    std::copy_n(running_mean.const_data_ptr<T>(), wide, middle);
    std::copy_n(running_variance.const_data_ptr<T>(), wide, spread);
  }
  std::vector<T> scale(static_cast<size_t>(wide)), shift(scale.size());
  for (int64_t c = 0; c < wide; ++c) {
    scale[c] = weight.const_data_ptr<T>()[c] / std::sqrt(spread[c] + static_cast<T>(eps));
    shift[c] = bias.const_data_ptr<T>()[c] - middle[c] * scale[c];
  }
  const T* added = residual == nullptr ? nullptr : residual->const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  blocks.for_each([&](int64_t, int64_t from, int64_t end, int64_t first, int64_t channels) {
    for (int64_t row = from; row < end; ++row) {
      const int64_t at = row * wide + first;
      const T *a = scale.data() + first, *b = shift.data() + first;
      if (added == nullptr)
        for (int64_t c = 0; c < channels; ++c) to[at + c] = x[at + c] * a[c] + b[c];
      else
        for (int64_t c = 0; c < channels; ++c) to[at + c] = x[at + c] * a[c] + b[c] + added[at + c];
      for (int64_t c = 0; rectify && c < channels; ++c)
        to[at + c] = to[at + c] < 0 ? T{0} : to[at + c];  // what is not a number stays
    }
  });
  return {out, mean, variance};
}

std::tuple<Tensor, Tensor, Tensor> norm_rows(
    Tensor rows, Tensor weight, Tensor bias, Tensor running_mean, Tensor running_variance,
    std::optional<Tensor> residual, double eps, bool rectify) {
  const ScalarType given = rows.scalar_type();
  const auto run = [&](auto zero, ScalarType type) {
    if (residual.has_value()) residual = as_type(*residual, type);
    return normalize<decltype(zero)>(
        as_type(rows, type), as_type(weight, type), as_type(bias, type),
        as_type(running_mean, type), as_type(running_variance, type),
        residual.has_value() ? &*residual : nullptr, eps, rectify, type);
  };
  if (given == ScalarType::Double) return run(double{}, given);
  auto [out, mean, variance] = run(float{}, ScalarType::Float);
  return {as_type(out, given), mean, variance};
}

template <class T>
std::tuple<Tensor, Tensor, Tensor, Tensor> derive(
    const Tensor& gradient, const Tensor& rows, const Tensor& out, const Tensor& weight,
    const Tensor& mean, const Tensor& variance, double eps, bool rectify, bool with_residual,
    ScalarType type) {
  const Blocks blocks(rows.size(0), rows.size(1));
  const int64_t wide = blocks.channels;
  Tensor by_rows = new_tensor(rows, {blocks.rows, wide}, type);
  Tensor by_weight = new_tensor(rows, {wide}, type), by_bias = new_tensor(rows, {wide}, type);
  Tensor by_residual = new_tensor(rows, {with_residual ? blocks.rows : 0, wide}, type);
  const T *slope = gradient.const_data_ptr<T>(), *x = rows.const_data_ptr<T>();
  const T *result = out.const_data_ptr<T>(), *middle = mean.const_data_ptr<T>();
  T* to = by_rows.mutable_data_ptr<T>();
  // The slope before ReLU; it is the residual's own, too.
  T* before = with_residual ? by_residual.mutable_data_ptr<T>() : to;
  std::vector<T> sums(static_cast<size_t>(blocks.count * wide)), products(sums.size());
  blocks.for_each([&](int64_t block, int64_t from, int64_t end, int64_t first, int64_t channels) {
    T sum[kMostChannels] = {}, product[kMostChannels] = {};
    for (int64_t row = from; row < end; ++row) {
      const int64_t at = row * wide + first;
      T* __restrict kept = before + at;
      const T* __restrict given = slope + at, * __restrict shown = result + at;
      const T* __restrict value = x + at, * __restrict m = middle + first;
      if (rectify)
        for (int64_t c = 0; c < channels; ++c) {
          const T each = given[c];  // read in any case: a choice of reads is a branch
          kept[c] = shown[c] <= 0 ? T{0} : each;
        }
      else
        std::copy(given, given + channels, kept);
      for (int64_t c = 0; c < channels; ++c) {
        sum[c] += kept[c];
        product[c] += kept[c] * (value[c] - m[c]);
      }
    }
    std::copy(sum, sum + channels, sums.data() + block * wide + first);
    std::copy(product, product + channels, products.data() + block * wide + first);
  });
  // by_rows = scale * (before - mean of before - (x - mean) * lean)
  std::vector<T> scale(static_cast<size_t>(wide)), level(scale.size()), lean(scale.size());
  std::vector<double> totals(static_cast<size_t>(wide)), moments(totals.size());
  for (int64_t block = 0; block < blocks.count; ++block)
    for (int64_t c = 0; c < wide; ++c) {
      totals[c] += static_cast<double>(sums[block * wide + c]);
      moments[c] += static_cast<double>(products[block * wide + c]);
    }
  for (int64_t c = 0; c < wide; ++c) {
    const double sum = totals[c], product = moments[c];
    const double inverse =
        1 / std::sqrt(static_cast<double>(variance.const_data_ptr<T>()[c]) + eps);
    const auto rows_count = static_cast<double>(blocks.rows);
    const bool own = blocks.rows >= kFewestRows;
    by_weight.mutable_data_ptr<T>()[c] = static_cast<T>(product * inverse);
    by_bias.mutable_data_ptr<T>()[c] = static_cast<T>(sum);
    scale[c] = static_cast<T>(static_cast<double>(weight.const_data_ptr<T>()[c]) * inverse);
    level[c] = own ? static_cast<T>(sum / rows_count) : T{0};
    lean[c] = own ? static_cast<T>(product * inverse * inverse / rows_count) : T{0};
  }
  blocks.for_each([&](int64_t, int64_t from, int64_t end, int64_t first, int64_t channels) {
    const T *m = middle + first, *s = scale.data() + first;
    const T *l = level.data() + first, *n = lean.data() + first;
    for (int64_t row = from; row < end; ++row) {
      const int64_t at = row * wide + first;
      for (int64_t c = 0; c < channels; ++c)
        to[at + c] = s[c] * (before[at + c] - l[c] - (x[at + c] - m[c]) * n[c]);
    }
  });
  return {by_rows, by_weight, by_bias, by_residual};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> norm_rows_gradient(
    Tensor gradient, Tensor rows, Tensor out, Tensor weight, Tensor mean, Tensor variance,
    double eps, bool rectify, bool with_residual) {
  const ScalarType given = rows.scalar_type();
  const auto run = [&](auto zero, ScalarType type) {
    return derive<decltype(zero)>(
        as_type(gradient, type), as_type(rows, type), as_type(out, type), as_type(weight, type),
        as_type(mean, type), as_type(variance, type), eps, rectify, with_residual, type);
  };
  if (given == ScalarType::Double) return run(double{}, given);
  auto [by_rows, by_weight, by_bias, by_residual] = run(float{}, ScalarType::Float);
  return {as_type(by_rows, given), by_weight, by_bias, as_type(by_residual, given)};
}

}  // namespace
}  // namespace perception3d

P3D_CPU_KERNEL(norm_rows)
P3D_CPU_KERNEL(norm_rows_gradient)
