// Body of row_gemm_{base,avx2,avx512}.cpp. Before including it they define P3D_LANES (floats in a
// vector), P3D_ROWS (rows worked on together) and P3D_GEMM (the constant to define), include every
// system header that is used here, and switch the compiler to their instruction set. With
// P3D_VECTOR_COMPACT they bring compact_vectors(), which does the part of compact() that fills
// whole vectors, adds to `found` and returns where it stopped.

namespace perception3d {
namespace {

constexpr int kLanes = P3D_LANES;
constexpr int kRows = P3D_ROWS;
constexpr int kColumns = 2 * kLanes;

typedef float Vector __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Vector load(const float* from) {
  return *reinterpret_cast<const Vector*>(from);
}
inline void store(float* to, Vector value) {
  *reinterpret_cast<Vector*>(to) = value;
}

int compact(const int32_t* table, int count, int32_t* source, int32_t* target) {
  int found = 0, i = 0;
#ifdef P3D_VECTOR_COMPACT
  i = compact_vectors(table, count, source, target, &found);
#endif
  for (; i < count; ++i) {
    source[found] = table[i];
    target[found] = i;
    found += table[i] >= 0;
  }
  return found;
}

// Calls run(std::integral_constant<int, rows>) for rows in [1, Most].
template <int Most, class Run>
inline void with_rows(int rows, const Run& run) {
  if (rows == Most) return run(std::integral_constant<int, Most>{});
  if constexpr (Most > 1) with_rows<Most - 1>(rows, run);
}

template <int Rows>
void multiply_rows(
    const float* features, int64_t channels, const int32_t* source, const int32_t* target,
    const float* panel, float* out) {
  const float* row[Rows];
  Vector left[Rows], right[Rows];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
    row[r] = features + source[r] * channels;
    left[r] = right[r] = Vector{};
  }
  for (int64_t c = 0; c < channels; ++c, panel += kColumns) {
    const Vector first = load(panel), second = load(panel + kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const float value = row[r][c];
      left[r] += value * first;
      right[r] += value * second;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
    float* to = out + static_cast<int64_t>(target[r]) * kColumns;
    store(to, load(to) + left[r]);
    store(to + kLanes, load(to + kLanes) + right[r]);
  }
}

void multiply(
    const float* features, int64_t channels, const int32_t* source, const int32_t* target,
    int pairs, const float* panel, float* out) {
  for (int i = 0; i < pairs; i += kRows)
    with_rows<kRows>(std::min(kRows, pairs - i), [&](auto rows) {
      multiply_rows<decltype(rows)::value>(features, channels, source + i, target + i, panel, out);
    });
}

template <int Rows>
void outer_rows(
    const float* features, int64_t channels, const float* gradient, int64_t apart,
    const int32_t* source, const int32_t* target, int pairs, float* out, int64_t wide) {
  Vector left[Rows], right[Rows];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) left[r] = right[r] = Vector{};
  for (int i = 0; i < pairs; ++i) {
    const float* row = features + source[i] * channels;
    const float* other = gradient + target[i] * apart;
    const Vector first = load(other), second = load(other + kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const float value = row[r];
      left[r] += value * first;
      right[r] += value * second;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
    float* to = out + r * wide;
    store(to, load(to) + left[r]);
    store(to + kLanes, load(to + kLanes) + right[r]);
  }
}

void outer(
    const float* features, int64_t channels, const float* gradient, int64_t wide,
    const int32_t* source, const int32_t* target, int pairs, float* out) {
  // As many steps as are needed, and all of nearly one size: short ones wait for their own sums.
  for (int64_t c = 0, steps = (channels + kRows - 1) / kRows; steps > 0; --steps) {
    const auto count = static_cast<int>((channels - c + steps - 1) / steps);
    with_rows<kRows>(count, [&](auto rows) {
      outer_rows<decltype(rows)::value>(
          features + c, channels, gradient, wide, source, target, pairs, out + c * wide, wide);
    });
    c += count;
  }
}

}  // namespace

const RowGemm P3D_GEMM{P3D_NAME, kColumns, compact, multiply, outer};

}  // namespace perception3d
