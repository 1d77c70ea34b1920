// Sparse convolution on the CPU, by blocks of output rows: a thread owns a block, so nothing is
// written by two threads and the sums have one order, whatever the number of threads.
#include <algorithm>
#include <cstring>

#include "row_gemm.h"
#include "torch_glue.h"

namespace perception3d {
namespace {

constexpr int kBlock = 256;      // output rows of a block
constexpr int kThinBlock = 512;  // where there are few channels, which leaves room in the cache
constexpr int64_t kThin = 32;    // channels that are few
constexpr int64_t kFewestChunks = 4;  // of the weight gradient, which are summed in their order
constexpr int64_t kMostChunks = 8;
constexpr int64_t kTaps = 9;  // of the weight gradient that are summed together

int64_t round_up(int64_t value, int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

// Input and output rows that one tap joins inside of a block.
struct Pairs {
  int32_t source[kThinBlock + 16], target[kThinBlock + 16];

  // Returns how many there are.
  int find(const RowGemm& gemm, const int32_t* table, int rows) {
    return gemm.compact(table, rows, source, target);
  }
};

// Weights (K, Cin, Cout) as panels (K, Cout / columns, Cin, columns), zeros behind the last
// channel.
std::vector<float> pack(const Tensor& weight, int64_t columns, bool mirrored) {
  const int64_t taps = weight.size(0), in = weight.size(1), out = weight.size(2);
  const int64_t by_tap = weight.stride(0), by_in = weight.stride(1), by_out = weight.stride(2);
  const int64_t panels = round_up(out, columns) / columns;
  const float* from = weight.const_data_ptr<float>();
  std::vector<float> packed(static_cast<size_t>(taps * panels * in * columns));
  parallel(taps * panels, 4, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t tap = mirrored ? taps - 1 - task / panels : task / panels;
      const int64_t first = task % panels * columns, count = std::min(columns, out - first);
      const float* at = from + tap * by_tap + first * by_out;
      float* to = packed.data() + task * in * columns;
      for (int64_t c = 0; c < in; ++c)
        for (int64_t column = 0; column < count; ++column)
          to[c * columns + column] = at[c * by_in + column * by_out];
    }
  });
  return packed;
}

// What is done to the sums while they are still in the cache; null and false: nothing.
struct Finish {
  const float* shift = nullptr;     // (Cout)
  const float* residual = nullptr;  // (M, Cout)
  bool rectify = false;

  void operator()(
      const float* sum, int64_t row, int64_t first, int64_t count, int64_t out, float* to) const {
    if (shift == nullptr && residual == nullptr && !rectify) {
      std::memcpy(to, sum, static_cast<size_t>(count) * sizeof(float));
      return;
    }
    for (int64_t c = 0; c < count; ++c) {
      float value = sum[c];
      if (shift != nullptr) value += shift[first + c];
      if (residual != nullptr) value += residual[row * out + first + c];
      to[c] = rectify && value < 0.0f ? 0.0f : value;
    }
  }
};

Tensor convolve_float(
    const Tensor& features, const Tensor& weight, const Tensor& table, bool mirrored,
    const Finish& finish) {
  const RowGemm& gemm = row_gemm();
  const int64_t taps = table.size(0), rows = table.size(1), in = weight.size(1);
  const int64_t out = weight.size(2), columns = gemm.columns;
  const int64_t panels = round_up(out, columns) / columns;
  const std::vector<float> packed = pack(weight, columns, mirrored);
  Tensor result = new_tensor(features, {rows, out}, ScalarType::Float);
  const float* from = features.const_data_ptr<float>();
  const int32_t* sources = table.const_data_ptr<int32_t>();
  float* to = result.mutable_data_ptr<float>();
  const int64_t size = out <= kThin ? kThinBlock : kBlock, panel_size = size * columns;
  parallel((rows + size - 1) / size, 1, [&](int64_t begin, int64_t end) {
    Pairs pairs;
    std::vector<float> sums(static_cast<size_t>(panels * panel_size));
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * size;
      const int count = static_cast<int>(std::min(size, rows - first));
      std::fill(sums.begin(), sums.end(), 0.0f);
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int found = pairs.find(gemm, sources + tap * rows + first, count);
        const float* weights = packed.data() + tap * panels * in * columns;
        for (int64_t panel = 0; found > 0 && panel < panels; ++panel)
          gemm.multiply(
              from, in, pairs.source, pairs.target, found, weights + panel * in * columns,
              sums.data() + panel * panel_size);
      }
      for (int64_t panel = 0; panel < panels; ++panel) {
        const float* sum = sums.data() + panel * panel_size;
        const int64_t from_column = panel * columns, used = std::min(columns, out - from_column);
        for (int row = 0; row < count; ++row)
          finish(
              sum + row * columns, first + row, from_column, used, out,
              to + (first + row) * out + from_column);
      }
    }
  });
  return result;
}

// Double precision is for checks of gradients: plain loops.
Tensor convolve_double(
    const Tensor& features, const Tensor& weight, const Tensor& table, bool mirrored) {
  const int64_t taps = table.size(0), rows = table.size(1), in = weight.size(1),
                out = weight.size(2);
  const Tensor packed = dense(weight);
  Tensor result = torch::stable::new_zeros(features, {rows, out}, ScalarType::Double);
  const double* from = features.const_data_ptr<double>();
  const double* weights = packed.const_data_ptr<double>();
  const int32_t* sources = table.const_data_ptr<int32_t>();
  double* to = result.mutable_data_ptr<double>();
  parallel(rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t source = sources[tap * rows + row];
        if (source < 0) continue;
        const double* matrix = weights + (mirrored ? taps - 1 - tap : tap) * in * out;
        for (int64_t c = 0; c < in; ++c)
          for (int64_t column = 0; column < out; ++column)
            to[row * out + column] += from[source * in + c] * matrix[c * out + column];
      }
  });
  return result;
}

Tensor sparse_conv(
    Tensor features, Tensor weight, Tensor table, std::optional<Tensor>, bool mirrored) {
  const ScalarType type = features.scalar_type();
  table = dense(table);
  if (type == ScalarType::Double) return convolve_double(dense(features), weight, table, mirrored);
  // Half precision is widened, so sums are made in float32.
  if (type != ScalarType::Float) weight = torch::stable::to(weight, ScalarType::Float);
  features = as_type(features, ScalarType::Float);
  return as_type(convolve_float(features, weight, table, mirrored, {}), type);
}

Tensor sparse_conv_affine(
    Tensor features, Tensor weight, Tensor table, Tensor shift, std::optional<Tensor> residual,
    bool rectify) {
  const ScalarType type = features.scalar_type();
  shift = as_type(shift, ScalarType::Float);
  if (residual.has_value()) residual = as_type(*residual, ScalarType::Float);
  if (type != ScalarType::Float) weight = torch::stable::to(weight, ScalarType::Float);
  Finish finish;
  finish.shift = shift.const_data_ptr<float>();
  finish.residual = residual.has_value() ? residual->const_data_ptr<float>() : nullptr;
  finish.rectify = rectify;
  features = as_type(features, ScalarType::Float);
  return as_type(convolve_float(features, weight, dense(table), false, finish), type);
}

// Rows with their channels filled up to a multiple of the panel's width.
Tensor fill_up(const Tensor& rows, int64_t columns) {
  const int64_t count = rows.size(0), channels = rows.size(1), wide = round_up(channels, columns);
  if (wide == channels) return rows;
  Tensor filled = torch::stable::new_zeros(rows, {count, wide}, ScalarType::Float);
  const float* from = rows.const_data_ptr<float>();
  float* to = filled.mutable_data_ptr<float>();
  for (int64_t row = 0; row < count; ++row)
    std::memcpy(
        to + row * wide, from + row * channels, static_cast<size_t>(channels) * sizeof(float));
  return filled;
}

Tensor weight_gradient_float(const Tensor& features, const Tensor& gradient, const Tensor& table) {
  const RowGemm& gemm = row_gemm();
  const int64_t taps = table.size(0), rows = table.size(1), in = features.size(1);
  const int64_t out = gradient.size(1), wide = round_up(out, gemm.columns);
  const Tensor filled = fill_up(gradient, gemm.columns);
  const float* from = features.const_data_ptr<float>();
  const float* slopes = filled.const_data_ptr<float>();
  const int32_t* sources = table.const_data_ptr<int32_t>();
  const int64_t blocks = (rows + kBlock - 1) / kBlock, size = taps * in * wide;
  // Their number depends on sizes alone: so does the order of the sums.
  const int64_t chunks = std::min(blocks, std::clamp(blocks / 8, kFewestChunks, kMostChunks));
  std::vector<float> parts(static_cast<size_t>(chunks * size));
  const int64_t groups = (taps + kTaps - 1) / kTaps;
  parallel(chunks * groups, 1, [&](int64_t begin, int64_t end) {
    Pairs pairs;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task / groups, group = task % groups;
      float* part = parts.data() + chunk * size;
      for (int64_t block = chunk * blocks / chunks; block < (chunk + 1) * blocks / chunks;
           ++block) {
        const int64_t first = block * kBlock;
        const int count = static_cast<int>(std::min<int64_t>(kBlock, rows - first));
        for (int64_t tap = group * kTaps; tap < std::min(taps, (group + 1) * kTaps); ++tap) {
          const int found = pairs.find(gemm, sources + tap * rows + first, count);
          for (int64_t column = 0; found > 0 && column < wide; column += gemm.columns)
            gemm.outer(
                from, in, slopes + first * wide + column, wide, pairs.source, pairs.target, found,
                part + tap * in * wide + column);
        }
      }
    }
  });
  Tensor result = new_tensor(features, {taps, in, out}, ScalarType::Float);
  float* to = result.mutable_data_ptr<float>();
  parallel(taps * in, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t column = 0; column < out; ++column) {
        float sum = 0.0f;
        for (int64_t chunk = 0; chunk < chunks; ++chunk)
          sum += parts[static_cast<size_t>(chunk * size + row * wide + column)];
        to[row * out + column] = sum;
      }
  });
  return result;
}

Tensor weight_gradient_double(const Tensor& features, const Tensor& gradient, const Tensor& table) {
  const int64_t taps = table.size(0), rows = table.size(1), in = features.size(1);
  const int64_t out = gradient.size(1);
  Tensor result = torch::stable::new_zeros(features, {taps, in, out}, ScalarType::Double);
  const double* from = features.const_data_ptr<double>();
  const double* slopes = gradient.const_data_ptr<double>();
  const int32_t* sources = table.const_data_ptr<int32_t>();
  double* to = result.mutable_data_ptr<double>();
  parallel(taps, 1, [&](int64_t begin, int64_t end) {
    for (int64_t tap = begin; tap < end; ++tap)
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t source = sources[tap * rows + row];
        if (source < 0) continue;
        for (int64_t c = 0; c < in; ++c)
          for (int64_t column = 0; column < out; ++column)
            to[(tap * in + c) * out + column] += from[source * in + c] * slopes[row * out + column];
      }
  });
  return result;
}

Tensor sparse_conv_weight_gradient(Tensor features, Tensor gradient, Tensor table) {
  const ScalarType type = features.scalar_type();
  table = dense(table);
  if (type == ScalarType::Double)
    return weight_gradient_double(dense(features), as_type(gradient, type), table);
  return as_type(
      weight_gradient_float(
          as_type(features, ScalarType::Float), as_type(gradient, ScalarType::Float), table),
      type);
}

}  // namespace
}  // namespace perception3d

P3D_CPU_KERNEL(sparse_conv)
P3D_CPU_KERNEL(sparse_conv_affine)
P3D_CPU_KERNEL(sparse_conv_weight_gradient)
