// Selection by rank on the GPU: torch's side of the kernels.
#include "../select.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "kernels/select.h"

namespace raster::cuda {
namespace {

at::Tensor kth_smallest_cuda(const at::Tensor& values, int64_t k) {
  const c10::cuda::CUDAGuard guard(values.device());
  check_kth_smallest(values, k);
  const int64_t rows = values.size(0);
  TORCH_CHECK(rows < 65536, "kth_smallest: values may have up to 65535 rows on a GPU, got ", rows);
  const at::Tensor read = values.contiguous();
  at::Tensor results = at::empty({rows}, read.options());
  at::Tensor scratch = at::empty({rows, sizeof(SelectRow)}, read.options().dtype(at::kByte));
  select({static_cast<int>(rows), static_cast<int>(read.size(1)), read.const_data_ptr<float>(),
          static_cast<int>(k - 1), reinterpret_cast<SelectRow*>(scratch.mutable_data_ptr()),
          results.mutable_data_ptr<float>()},
         c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return results;
}

}  // namespace
}  // namespace raster::cuda

TORCH_LIBRARY_IMPL(twinsplat_raster, CUDA, m) {
  m.impl("kth_smallest", &raster::cuda::kth_smallest_cuda);
}
