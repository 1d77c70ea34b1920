#include "grid.cuh"
#include "pad_rows.h"

namespace perception3d {

const char* pad_rows_cuda(int64_t tasks, const PadRows<float>& functor, Stream stream) {
  return for_each_cuda(tasks, functor, stream);
}
const char* pad_rows_cuda(int64_t tasks, const PadRows<double>& functor, Stream stream) {
  return for_each_cuda(tasks, functor, stream);
}

}  // namespace perception3d
