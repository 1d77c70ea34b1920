// Rows of a group to one row, and the gradient back. On CUDA one call of a functor handles one
// channel of one group, so that a warp reads neighbouring channels; on the CPU all channels are
// handled together, so that the loop over them is vectorised.
#pragma once

#include "common.h"

namespace perception3d {

enum class Reduction : int64_t { kSum = 0, kMean = 1, kMax = 2 };

template <class T>
struct ReduceRows {
  const T* rows;         // (R, channels)
  const int64_t* order;  // (K) rows by group, ascending in each
  const int64_t* start;  // (G + 1)
  int64_t channels;
  Reduction reduction;
  T* out;           // (G, channels)
  int32_t* source;  // (G, channels) row that holds the maximum; null where nobody asks for it

  P3D_HOST_DEVICE void operator()(int64_t task) const {
    const int64_t group = task / channels, c = task % channels;
    begin_group(group, c, c + 1);
    for (int64_t i = start[group] + 1; i < start[group + 1]; ++i)
      add_row(group, order[i], c, c + 1);
    end_group(group, c, c + 1);
  }

  // The first row of a group.
  P3D_HOST_DEVICE void begin_group(int64_t group, int64_t first, int64_t last) const {
    const int64_t row = order[start[group]];
    const T* from = rows + row * channels;
    T* to = out + group * channels;
    for (int64_t c = first; c < last; ++c) to[c] = from[c];
    if (source == nullptr) return;
    for (int64_t c = first; c < last; ++c) source[group * channels + c] = static_cast<int32_t>(row);
  }

  // Every other row, in ascending order.
  P3D_HOST_DEVICE void add_row(int64_t group, int64_t row, int64_t first, int64_t last) const {
    const T* from = rows + row * channels;
    T* to = out + group * channels;
    if (reduction != Reduction::kMax) {
      for (int64_t c = first; c < last; ++c) to[c] += from[c];
      return;
    }
    // The lowest row wins ties; NaN wins over numbers.
    if (source != nullptr) {
      int32_t* at = source + group * channels;
      for (int64_t c = first; c < last; ++c) {
        const T value = from[c], best = to[c];
        const bool higher = (value > best) | ((value != value) & (best == best));
        at[c] = higher ? static_cast<int32_t>(row) : at[c];
      }
    }
    for (int64_t c = first; c < last; ++c) {
      const T value = from[c], best = to[c];
      to[c] = (value > best) | (value != value) ? value : best;
    }
  }

  P3D_HOST_DEVICE void end_group(int64_t group, int64_t first, int64_t last) const {
    if (reduction != Reduction::kMean) return;
    const T count = static_cast<T>(start[group + 1] - start[group]);
    for (int64_t c = first; c < last; ++c) out[group * channels + c] /= count;
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
