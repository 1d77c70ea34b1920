#include "grid.cuh"
#include "reduce_rows.h"

namespace perception3d {

const char* reduce_rows_cuda(int64_t tasks, const ReduceRows<float>& functor, Stream stream) {
  return for_each_cuda(tasks, functor, stream);
}
const char* reduce_rows_cuda(int64_t tasks, const ReduceRows<double>& functor, Stream stream) {
  return for_each_cuda(tasks, functor, stream);
}
const char* spread_rows_cuda(int64_t tasks, const SpreadRows<float>& functor, Stream stream) {
  return for_each_cuda(tasks, functor, stream);
}
const char* spread_rows_cuda(int64_t tasks, const SpreadRows<double>& functor, Stream stream) {
  return for_each_cuda(tasks, functor, stream);
}

}  // namespace perception3d
