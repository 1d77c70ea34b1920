// Rows of groups put side by side into arrays of one size. One call fills a group's slots (on the
// CPU), or one number of them (on CUDA).
#pragma once

#include "common.h"

namespace perception3d {

template <class T>
struct PadRows {
  const T* rows;         // (R, channels)
  const int64_t* order;  // (K) rows by group
  const int64_t* start;  // (G + 1)
  int64_t channels, slots;
  bool whole;  // a call fills all slots of a group
  T* out;      // (G, slots, channels)

  P3D_HOST_DEVICE void operator()(int64_t task) const {
    const int64_t size = slots * channels;
    if (!whole) {
      fill(task / size, task % size, task % size + 1);
      return;
    }
    const int64_t begin = start[task], kept = kept_of(task);
    T* to = out + task * size;
    for (int64_t slot = 0; slot < kept; ++slot, to += channels) {
      const T* from = rows + order[begin + slot] * channels;
      for (int64_t c = 0; c < channels; ++c) to[c] = from[c];
    }
    for (T* end = out + (task + 1) * size; to < end; ++to) *to = T(0);
  }

  P3D_HOST_DEVICE int64_t kept_of(int64_t group) const {
    const int64_t count = start[group + 1] - start[group];
    return count < slots ? count : slots;
  }

  P3D_HOST_DEVICE void fill(int64_t group, int64_t first, int64_t last) const {
    const int64_t begin = start[group], kept = kept_of(group);
    for (int64_t i = first; i < last; ++i) {
      const int64_t slot = i / channels, c = i % channels;
      out[group * slots * channels + i] =
          slot < kept ? rows[order[begin + slot] * channels + c] : T(0);
    }
  }
};

const char* pad_rows_cuda(int64_t tasks, const PadRows<float>& functor, Stream stream);
const char* pad_rows_cuda(int64_t tasks, const PadRows<double>& functor, Stream stream);

}  // namespace perception3d
