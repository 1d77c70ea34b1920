#include "strided_map_bits.h"

#include <algorithm>
#include <array>

#include "torch_glue.h"

namespace perception3d {
namespace {

constexpr int64_t kGrain = 8192;

// Sums of int32 numbers up to and with each.
Tensor running_sums(const Tensor& numbers) {
  using torch::stable::detail::from;
  const std::optional<ScalarType> type = ScalarType::Int;
  std::array<StableIValue, 3> stack{from(numbers), from(int64_t{0}), from(type)};
  const auto status = torch_call_dispatcher("aten::cumsum", "", stack.data(), TORCH_ABI_VERSION);
  STD_TORCH_CHECK(status == 0, "strided_map: no sums of the counts");
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// The last of int32 numbers, on the host: the one time that it waits for the device.
int64_t last_of(Tensor numbers) {
  const Tensor last = torch::stable::narrow(numbers, 0, numbers.size(0) - 1, 1);
  const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  return torch::stable::to(last, cpu).const_data_ptr<int32_t>()[0];
}

std::tuple<Tensor, Tensor> strided_map_bits(
    Tensor index, int64_t batch_size, std::vector<int64_t> in_shape, std::vector<int64_t> out_shape,
    std::vector<int64_t> kernel, std::vector<int64_t> stride, std::vector<int64_t> padding,
    std::vector<int64_t> dilation, bool transposed) {
  index = dense(index);
  check_sites(index, batch_size, in_shape);
  FedCells fed;
  fed.index = index.const_data_ptr<int32_t>();
  fed.sites = index.size(0);
  copy_triple(kernel, fed.kernel, "kernel");
  copy_triple(out_shape, fed.step.out_shape, "out_shape");
  copy_triple(stride, fed.step.stride, "stride");
  copy_triple(padding, fed.step.padding, "padding");
  copy_triple(dilation, fed.step.dilation, "dilation");
  fed.step.transposed = transposed;
  const int64_t taps = kernel[0] * kernel[1] * kernel[2], tasks = taps * fed.sites;
  const int64_t cells = batch_size * out_shape[0] * out_shape[1] * out_shape[2];
  const int64_t count = (cells + kWordBits - 1) / kWordBits;
  STD_TORCH_CHECK(tasks == 0 || count > 0, "a grid without cells");

  Tensor words = torch::stable::new_zeros(index, {count}, ScalarType::Long);
  auto* bits = reinterpret_cast<uint64_t*>(words.mutable_data_ptr<int64_t>());
  for_each(
      index, tasks, kGrain, MarkCells{fed, bits}, P3D_LAUNCHER(mark_cells_cuda), "strided_map");
  Tensor counts = new_tensor(index, {count}, ScalarType::Int);
  for_each(
      index, count, kGrain, CountBits{bits, counts.mutable_data_ptr<int32_t>()},
      P3D_LAUNCHER(count_bits_cuda), "strided_map");
  const Tensor up_to = running_sums(counts);
  const int64_t outputs = count == 0 ? 0 : last_of(up_to);

  const BitRows row{bits, up_to.const_data_ptr<int32_t>()};
  Tensor sites = new_tensor(index, {outputs, 4}, ScalarType::Int);
  Tensor table = new_tensor(index, {taps, outputs}, ScalarType::Int);
  EmitSites emit{row, {}, sites.mutable_data_ptr<int32_t>()};
  copy_triple(out_shape, emit.shape, "out_shape");
  for_each(index, count, kGrain, emit, P3D_LAUNCHER(emit_sites_cuda), "strided_map");
  torch::stable::fill_(table, -1);
  const JoinSites join{fed, row, outputs, table.mutable_data_ptr<int32_t>()};
  for_each(index, tasks, kGrain, join, P3D_LAUNCHER(join_sites_cuda), "strided_map");
  return {sites, table};
}

}  // namespace
}  // namespace perception3d

P3D_KERNEL(strided_map_bits)
