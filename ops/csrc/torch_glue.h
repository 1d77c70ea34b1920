// What the .cpp files need of torch: the stable C++ interface, checks, loops, the current stream.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <string>
#include <vector>

#include "common.h"

namespace perception3d {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Tensor new_tensor(const Tensor& like, std::vector<int64_t> sizes, ScalarType type) {
  return torch::stable::new_empty(like, sizes, type);
}

inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline Tensor as_type(const Tensor& tensor, ScalarType type) {
  return dense(tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type));
}

inline void copy_triple(const std::vector<int64_t>& from, int64_t (&to)[3], const char* name) {
  STD_TORCH_CHECK(from.size() == 3, name, " must hold three numbers");
  std::copy(from.begin(), from.end(), to);
}

// Kernels of the CPU index by offsets: what compiled graphs hand over was checked by nobody.
inline void check_offsets(const Tensor& offsets, int64_t rows, const char* op) {
  if (offsets.is_cuda()) return;
  const int64_t* at = offsets.const_data_ptr<int64_t>();
  const int64_t count = offsets.size(0);
  STD_TORCH_CHECK(
      count >= 2 && at[0] == 0 && at[count - 1] == rows && std::is_sorted(at, at + count), op,
      ": offsets must ascend from 0 to the number of rows, ", rows);
}

// Sites (N, 4) index tables by their coordinates: outside of batch x grid they would read anywhere.
inline void check_sites(
    const Tensor& index, int64_t batch_size, const std::vector<int64_t>& shape) {
  if (index.is_cuda()) return;
  STD_TORCH_CHECK(shape.size() == 3, "a grid has three sizes");
  const int32_t* at = index.const_data_ptr<int32_t>();
  for (int64_t row = 0; row < index.size(0); ++row, at += 4)
    STD_TORCH_CHECK(
        at[0] >= 0 && at[0] < batch_size && at[1] >= 0 && at[1] < shape[0] && at[2] >= 0 &&
            at[2] < shape[1] && at[3] >= 0 && at[3] < shape[2],
        "site ", row, " lies outside of batch x grid");
}

// body(begin, end) on torch's own threads, at least `grain` numbers each.
template <class Body>
void parallel(int64_t count, int64_t grain, const Body& body) {
  torch::stable::parallel_for(0, count, grain, body);
}

// The launcher of a functor's .cu file; a type of its own, so that it is not deduced from.
template <class Functor>
struct Cuda {
  using Launcher = const char* (*)(int64_t count, const Functor& functor, Stream stream);
};

// functor(i) for i in [0, count), where the tensor lives: on torch's threads or on its CUDA stream.
template <class Functor>
void for_each(
    const Tensor& where, int64_t count, int64_t grain, const Functor& functor,
    typename Cuda<Functor>::Launcher launch_cuda, const char* op) {
  if (!where.is_cuda()) {
    parallel(count, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) functor(i);
    });
    return;
  }
#ifdef P3D_WITH_CUDA
  // Kernels start on the current device, which may be another one than the tensor's.
  const torch::stable::accelerator::DeviceGuard guard(where.get_device_index());
  void* stream = nullptr;
  STD_TORCH_CHECK(
      aoti_torch_get_current_cuda_stream(where.get_device_index(), &stream) == 0, op,
      ": no current CUDA stream");
  const char* error = launch_cuda(count, functor, stream);
  STD_TORCH_CHECK(error == nullptr, op, ": ", error == nullptr ? "" : error);
#else
  STD_TORCH_CHECK(false, op, ": this build has no CUDA kernels");
#endif
}

}  // namespace perception3d

// A CUDA launcher, where the build has them.
#ifdef P3D_WITH_CUDA
#define P3D_LAUNCHER(NAME) (&NAME)
#else
#define P3D_LAUNCHER(NAME) nullptr
#endif

// Registers perception3d::NAME's kernel of the CPU; the op itself is defined in Python.
#define P3D_CPU_KERNEL(NAME)                              \
  STABLE_TORCH_LIBRARY_IMPL(perception3d, CPU, library) { \
    library.impl(#NAME, TORCH_BOX(&perception3d::NAME));  \
  }

// The same function as the kernel of both devices.
#ifdef P3D_WITH_CUDA
#define P3D_KERNEL(NAME)                                   \
  P3D_CPU_KERNEL(NAME)                                     \
  STABLE_TORCH_LIBRARY_IMPL(perception3d, CUDA, library) { \
    library.impl(#NAME, TORCH_BOX(&perception3d::NAME));   \
  }
#else
#define P3D_KERNEL(NAME) P3D_CPU_KERNEL(NAME)
#endif
