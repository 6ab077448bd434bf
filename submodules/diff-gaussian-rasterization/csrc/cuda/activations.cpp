// The activations on the GPU: torch's side of the kernels.
#include "../activations.h"

#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <tuple>

#include "kernels/activations.h"

namespace raster::cuda {
namespace {

Activate task_of(const ActivateTensors& in) {
  return {in.log_scales.size(0), in.log_scales.const_data_ptr<float>(),
          in.opacity_logits.const_data_ptr<float>(), in.filter()};
}

std::tuple<at::Tensor, at::Tensor> activate_cuda(const at::Tensor& log_scales,
                                                 const at::Tensor& opacity_logits,
                                                 const std::optional<at::Tensor>& filter_3d) {
  const ActivateTensors in = activate_tensors(log_scales, opacity_logits, filter_3d);
  const c10::cuda::CUDAGuard guard(log_scales.device());
  at::Tensor scales = at::empty_like(in.log_scales);
  at::Tensor opacities = at::empty_like(in.opacity_logits);
  activate(task_of(in), {scales.mutable_data_ptr<float>(), opacities.mutable_data_ptr<float>()},
           c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {scales, opacities};
}

std::tuple<at::Tensor, at::Tensor> activate_backward_cuda(
    const at::Tensor& log_scales, const at::Tensor& opacity_logits,
    const std::optional<at::Tensor>& filter_3d, const at::Tensor& v_scales,
    const at::Tensor& v_opacities) {
  const ActivateTensors in = activate_tensors(log_scales, opacity_logits, filter_3d);
  const c10::cuda::CUDAGuard guard(log_scales.device());
  const ActivateUpstream upstream = activate_upstream(in, v_scales, v_opacities);
  at::Tensor v_log_scales = at::empty_like(in.log_scales);
  at::Tensor v_logits = at::empty_like(in.opacity_logits);
  activate_backward(
      task_of(in),
      {upstream.scales.const_data_ptr<float>(), upstream.opacities.const_data_ptr<float>(),
       v_log_scales.mutable_data_ptr<float>(), v_logits.mutable_data_ptr<float>()},
      c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {v_log_scales, v_logits};
}

}  // namespace
}  // namespace raster::cuda

TORCH_LIBRARY_IMPL(twinsplat_raster, CUDA, m) {
  m.impl("activate", &raster::cuda::activate_cuda);
  m.impl("activate_backward", &raster::cuda::activate_backward_cuda);
}
