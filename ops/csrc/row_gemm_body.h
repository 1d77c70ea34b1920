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

void multiply(
    const float* features, int64_t channels, const int32_t* source, const int32_t* target,
    int pairs, const float* panel, float* out) {
  for (int i = 0; i < pairs; i += kRows) {
    const float* row[kRows];
    float* to[kRows];
    Vector left[kRows], right[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      row[r] = features + source[i + r] * channels;
      to[r] = out + static_cast<int64_t>(target[i + r]) * kColumns;
      left[r] = right[r] = Vector{};
    }
    const float* weights = panel;
    for (int64_t c = 0; c < channels; ++c, weights += kColumns) {
      const Vector first = load(weights), second = load(weights + kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const float value = row[r][c];
        left[r] += value * first;
        right[r] += value * second;
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      store(to[r], load(to[r]) + left[r]);
      store(to[r] + kLanes, load(to[r] + kLanes) + right[r]);
    }
  }
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
  // Rows 512 bytes apart or more fall into few sets of the cache and push each other out. Copied
  // together once, they stay for all channels of the features.
  constexpr int64_t kCrowded = 128;
  float panel[kMostPairs * kColumns];
  int32_t places[kMostPairs];
  int64_t apart = wide;
  if (wide >= kCrowded) {
    for (int i = 0; i < pairs; ++i) {
      const float* from = gradient + target[i] * wide;
      store(panel + i * kColumns, load(from));
      store(panel + i * kColumns + kLanes, load(from + kLanes));
      places[i] = i;
    }
    gradient = panel, target = places, apart = kColumns;
  }
  const auto run = [&](auto rows, int64_t c) {
    outer_rows<decltype(rows)::value>(
        features + c, channels, gradient, apart, source, target, pairs, out + c * wide, wide);
    return c + decltype(rows)::value;
  };
  for (int64_t c = 0; c < channels;) {
    const int64_t rest = channels - c;
    if (rest >= kRows && rest != 8)  // eight are better two times four
      c = run(std::integral_constant<int, kRows>{}, c);
    else if (rest >= 4)
      c = run(std::integral_constant<int, 4>{}, c);
    else
      c = run(std::integral_constant<int, 1>{}, c);
  }
}

}  // namespace

const RowGemm P3D_GEMM{P3D_NAME, kColumns, kRows, compact, multiply, outer};

}  // namespace perception3d
