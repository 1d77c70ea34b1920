// Greedy suppression in two steps that fit a GPU: one bit for each pair of rows that says whether
// the better row suppresses the worse, then a sweep over the rows. Rows are sorted: sample by
// sample, best first. The CPU's own way is in box_nms.cpp.
#pragma once

#include "box_overlap.h"

namespace perception3d {

struct OverlapHit {
  const UprightBox* boxes;
  double threshold;
  P3D_HOST_DEVICE bool operator()(int64_t better, int64_t worse) const {
    return box_overlap_of(boxes[better], boxes[worse], false) > threshold;
  }
};

struct CircleHit {
  const double* centers;  // (N, 2)
  double threshold_sq;
  P3D_HOST_DEVICE bool operator()(int64_t better, int64_t worse) const {
    const double dx = centers[2 * worse] - centers[2 * better];
    const double dy = centers[2 * worse + 1] - centers[2 * better + 1];
    return dx * dx + dy * dy <= threshold_sq;
  }
};

// One call fills one word: 64 rows of the sample against one row.
template <class Hit>
struct SuppressionBits {
  Hit hit;
  const int64_t* label;  // (N)
  const int64_t* first;  // (N) first row of the row's sample
  const bool* alive;     // (N) rows that take part
  int64_t rows, words;
  int64_t* bits;  // (N, words): bit k of a row's words is row first + k

  P3D_HOST_DEVICE void operator()(int64_t task) const {
    const int64_t row = task / words, word = task % words;
    const int64_t start = first[row] + 64 * word;
    const int64_t begin = start > row + 1 ? start : row + 1;
    const int64_t end = start + 64 < rows ? start + 64 : rows;
    uint64_t found = 0;
    for (int64_t other = begin; alive[row] && other < end; ++other) {
      if (first[other] != first[row]) break;
      if (alive[other] && label[other] == label[row] && hit(row, other))
        found |= uint64_t{1} << (other - start);
    }
    bits[task] = static_cast<int64_t>(found);
  }
};

// One call sweeps one sample; the CUDA kernel does the same with a block of threads.
struct SweepBits {
  const int64_t* bits;     // (N, words)
  const bool* alive;       // (N)
  const int64_t* offsets;  // (samples + 1)
  int64_t words;
  uint64_t* removed;  // (samples, words), zeros
  bool* kept;         // (N)

  P3D_HOST_DEVICE void operator()(int64_t sample) const {
    uint64_t* gone = removed + sample * words;
    for (int64_t row = offsets[sample]; row < offsets[sample + 1]; ++row) {
      const int64_t rank = row - offsets[sample];
      kept[row] = alive[row] && !(gone[rank / 64] >> (rank % 64) & 1);
      if (!kept[row]) continue;
      for (int64_t word = rank / 64; word < words; ++word)
        gone[word] |= static_cast<uint64_t>(bits[row * words + word]);
    }
  }
};

const char* suppression_bits_cuda(
    int64_t tasks, const SuppressionBits<OverlapHit>& functor, Stream stream);
const char* suppression_bits_cuda(
    int64_t tasks, const SuppressionBits<CircleHit>& functor, Stream stream);
const char* sweep_bits_cuda(int64_t samples, const SweepBits& functor, Stream stream);

}  // namespace perception3d
