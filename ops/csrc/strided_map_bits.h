// Map of a strided convolution by bits: every output cell of the grid is a bit. Setting bits marks
// the sites, counting the bits before a cell gives its row, and rows come out sorted. Four
// functors, one after the other; the CPU runs them too (perception3d::strided_map_bits), though its
// own way, in strided_map.cpp, is faster there.
#pragma once

#include "sparse_maps.h"

namespace perception3d {

constexpr int64_t kWordBits = 64;

// Sets bits of a word that other calls may be writing as well.
P3D_HOST_DEVICE void set_bits(uint64_t* word, uint64_t bits) {
#ifdef __CUDA_ARCH__
  static_assert(sizeof(unsigned long long) == sizeof(uint64_t), "words of 64 bits");
  atomicOr(reinterpret_cast<unsigned long long*>(word), static_cast<unsigned long long>(bits));
#else
  __atomic_fetch_or(word, bits, __ATOMIC_RELAXED);
#endif
}

P3D_HOST_DEVICE int count_bits(uint64_t word) {
#ifdef __CUDA_ARCH__
  return __popcll(word);
#else
  return __builtin_popcountll(word);
#endif
}

// The position of the lowest bit of a word that has one.
P3D_HOST_DEVICE int lowest_bit(uint64_t word) {
#ifdef __CUDA_ARCH__
  return __ffsll(static_cast<long long>(word)) - 1;
#else
  return __builtin_ctzll(word);
#endif
}

// The output cell that an input site feeds through a tap, as a number of the whole batch.
struct FedCells {
  const int32_t* index;  // (N, 4) sample, z, y, x
  int64_t sites;         // N
  int64_t kernel[3];
  TapStep step;

  // A task is a tap and a site; the cell, or -1.
  P3D_HOST_DEVICE int64_t operator()(int64_t task) const {
    const int64_t tap = task / sites;
    const int32_t* at = index + 4 * (task % sites);
    const int64_t taps[3] = {
        tap / (kernel[1] * kernel[2]), tap / kernel[2] % kernel[1], tap % kernel[2]};
    int64_t cell = at[0];
    for (int axis = 0; axis < 3; ++axis) {
      const int64_t to = step.along(axis, at[axis + 1], taps[axis]);
      if (to < 0) return -1;
      cell = cell * step.out_shape[axis] + to;
    }
    return cell;
  }
};

// 1. One call sets the bit of the cell that a site feeds through a tap.
struct MarkCells {
  FedCells fed;
  uint64_t* words;  // zeros

  P3D_HOST_DEVICE void operator()(int64_t task) const {
    const int64_t cell = fed(task);
    if (cell >= 0) set_bits(words + cell / kWordBits, uint64_t{1} << (cell % kWordBits));
  }
};

// 2. One call counts the bits of a word. The caller adds the counts up.
struct CountBits {
  const uint64_t* words;
  int32_t* count;

  P3D_HOST_DEVICE void operator()(int64_t word) const { count[word] = count_bits(words[word]); }
};

// Rows of cells: bits before them.
struct BitRows {
  const uint64_t* words;
  const int32_t* up_to;  // bits in the words up to and with each

  // The row of a cell whose bit is set.
  P3D_HOST_DEVICE int32_t operator()(int64_t cell) const {
    const int64_t word = cell / kWordBits;
    return up_to[word] - count_bits(words[word] >> (cell % kWordBits));
  }
};

// 3. One call writes the sites of a word.
struct EmitSites {
  BitRows row;
  int64_t shape[3];  // cells along z, y, x
  int32_t* index;    // (M, 4)

  P3D_HOST_DEVICE void operator()(int64_t word) const {
    for (uint64_t rest = row.words[word]; rest != 0; rest &= rest - 1) {
      const int64_t cell = word * kWordBits + lowest_bit(rest);
      write_site(cell, shape, index + 4 * static_cast<int64_t>(row(cell)));
    }
  }
};

// 4. One call joins a site and its output through a tap. Through one tap an output reads one input
// at most, so no two calls write the same place.
struct JoinSites {
  FedCells fed;
  BitRows row;
  int64_t outputs;  // M
  int32_t* table;   // (K, M), -1 everywhere

  P3D_HOST_DEVICE void operator()(int64_t task) const {
    const int64_t cell = fed(task);
    if (cell < 0) return;
    table[task / fed.sites * outputs + row(cell)] = static_cast<int32_t>(task % fed.sites);
  }
};

const char* mark_cells_cuda(int64_t tasks, const MarkCells& functor, Stream stream);
const char* count_bits_cuda(int64_t words, const CountBits& functor, Stream stream);
const char* emit_sites_cuda(int64_t words, const EmitSites& functor, Stream stream);
const char* join_sites_cuda(int64_t tasks, const JoinSites& functor, Stream stream);

}  // namespace perception3d
