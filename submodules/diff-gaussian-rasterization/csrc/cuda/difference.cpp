// The mean absolute difference on the GPU: torch's side of the kernels.
#include "../difference.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <limits>
#include <tuple>

#include "kernels/difference.h"

namespace raster::cuda {
namespace {

Difference task_of(const at::Tensor& a, const at::Tensor& b) {
  TORCH_CHECK(a.numel() <= int64_t{std::numeric_limits<int32_t>::max()} * 1024,
              "mean_difference: there may be up to 2^41 numbers on a GPU, got ", a.sizes());
  return {a.numel(), a.const_data_ptr<float>(), b.const_data_ptr<float>()};
}

at::Tensor mean_difference_cuda(const at::Tensor& a, const at::Tensor& b) {
  const auto [first, second] = difference_tensors(a, b);
  const c10::cuda::CUDAGuard guard(a.device());
  const Difference task = task_of(first, second);
  at::Tensor value = at::empty({}, first.options());
  at::Tensor errors = at::empty({difference_blocks(task)}, first.options().dtype(at::kDouble));
  difference(task, errors.mutable_data_ptr<double>(), value.mutable_data_ptr<float>(),
             c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return value;
}

std::tuple<at::Tensor, at::Tensor> mean_difference_backward_cuda(const at::Tensor& v_value,
                                                                 const at::Tensor& a,
                                                                 const at::Tensor& b,
                                                                 bool wants_b) {
  const auto [first, second] = difference_tensors(a, b);
  check_v_value(v_value, a);
  const c10::cuda::CUDAGuard guard(a.device());
  at::Tensor v_a = at::empty_like(first);
  at::Tensor v_b = wants_b ? at::empty_like(first) : at::empty({0}, first.options());
  difference_backward(
      task_of(first, second), v_value.const_data_ptr<float>(), v_a.mutable_data_ptr<float>(),
      wants_b ? v_b.mutable_data_ptr<float>() : nullptr, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {v_a, v_b};
}

}  // namespace
}  // namespace raster::cuda

TORCH_LIBRARY_IMPL(twinsplat_raster, CUDA, m) {
  m.impl("mean_difference", &raster::cuda::mean_difference_cuda);
  m.impl("mean_difference_backward", &raster::cuda::mean_difference_backward_cuda);
}
