// Rows of a group to one row, and the gradient back. One call of a functor handles `width` channels
// of one group: all of them on the CPU (so that the loop over channels is vectorised), one on CUDA
// (so that a warp reads neighbouring channels).
#pragma once

#include "common.h"

namespace perception3d {

enum class Reduction : int64_t { kSum = 0, kMean = 1, kMax = 2 };

template <class T>
struct ReduceRows {
  const T* rows;         // (R, channels)
  const int64_t* order;  // (K) rows by group
  const int64_t* start;  // (G + 1)
  int64_t kept;          // K
  int64_t channels, width;
  Reduction reduction;
  T* out;           // (G, channels)
  int32_t* source;  // (G, channels) row that holds the maximum; null where nobody asks for it

  P3D_HOST_DEVICE void operator()(int64_t task) const {
    const int64_t tasks_of_group = (channels + width - 1) / width;
    const int64_t group = task / tasks_of_group;
    const int64_t first = (task % tasks_of_group) * width;
    const int64_t last = first + width < channels ? first + width : channels;
    const int64_t begin = start[group], end = start[group + 1];
    T* to = out + group * channels;
    const T* from = rows + order[begin] * channels;
    prefetch(begin);
    for (int64_t c = first; c < last; ++c) to[c] = from[c];
    if (reduction == Reduction::kMax) {
      highest(begin, end, first, last, to, source == nullptr ? nullptr : source + group * channels);
      return;
    }
    for (int64_t i = begin + 1; i < end; ++i) {
      prefetch(i);
      from = rows + order[i] * channels;
      for (int64_t c = first; c < last; ++c) to[c] += from[c];
    }
    if (reduction == Reduction::kMean) {
      const T count = static_cast<T>(end - begin);
      for (int64_t c = first; c < last; ++c) to[c] /= count;
    }
  }

  // The lowest row wins ties; NaN wins over numbers.
  P3D_HOST_DEVICE void highest(
      int64_t begin, int64_t end, int64_t first, int64_t last, T* to, int32_t* at) const {
    if (at != nullptr)
      for (int64_t c = first; c < last; ++c) at[c] = static_cast<int32_t>(order[begin]);
    for (int64_t i = begin + 1; i < end; ++i) {
      prefetch(i);
      const T* from = rows + order[i] * channels;
      const int32_t row = static_cast<int32_t>(order[i]);
      if (at != nullptr) {
        for (int64_t c = first; c < last; ++c) {
          const T value = from[c], best = to[c];
          const bool higher = (value > best) | ((value != value) & (best == best));
          at[c] = higher ? row : at[c];
        }
      }
      for (int64_t c = first; c < last; ++c) {
        const T value = from[c], best = to[c];
        to[c] = (value > best) | (value != value) ? value : best;
      }
    }
  }

  P3D_HOST_DEVICE void prefetch(int64_t i) const {
    constexpr int64_t kAhead = 12, kLine = 64 / sizeof(T);
    if (i + kAhead >= kept) return;
    const T* row = rows + order[i + kAhead] * channels;
    for (int64_t c = 0; c < channels && c < 16 * kLine; c += kLine) P3D_PREFETCH(row + c);
    (void)row;
  }
};

template <class T>
struct SpreadRows {
  const T* gradient;      // (G, channels)
  const int64_t* order;   // (K)
  const int64_t* start;   // (G + 1)
  const int32_t* source;  // (G, channels); only of kMax
  int64_t channels, width;
  Reduction reduction;
  T* out;  // (R, channels), zeros

  P3D_HOST_DEVICE void operator()(int64_t task) const {
    const int64_t tasks_of_group = (channels + width - 1) / width;
    const int64_t group = task / tasks_of_group;
    const int64_t first = (task % tasks_of_group) * width;
    const int64_t last = first + width < channels ? first + width : channels;
    const T* from = gradient + group * channels;
    if (reduction == Reduction::kMax) {
      const int32_t* at = source + group * channels;
      for (int64_t c = first; c < last; ++c) out[at[c] * channels + c] = from[c];
      return;
    }
    const int64_t begin = start[group], end = start[group + 1];
    const T share = reduction == Reduction::kMean ? T(1) / static_cast<T>(end - begin) : T(1);
    for (int64_t i = begin; i < end; ++i) {
      T* to = out + order[i] * channels;
      for (int64_t c = first; c < last; ++c) to[c] = from[c] * share;
    }
  }
};

const char* reduce_rows_cuda(int64_t tasks, const ReduceRows<float>& functor, Stream stream);
const char* reduce_rows_cuda(int64_t tasks, const ReduceRows<double>& functor, Stream stream);
const char* spread_rows_cuda(int64_t tasks, const SpreadRows<float>& functor, Stream stream);
const char* spread_rows_cuda(int64_t tasks, const SpreadRows<double>& functor, Stream stream);

}  // namespace perception3d
