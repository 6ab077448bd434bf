// The photometric loss on the GPU: torch's side of the kernels.
#include "../losses.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <limits>
#include <tuple>

#include "kernels/losses.h"

namespace raster::cuda {
namespace {

const float* data(const std::optional<at::Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr<float>() : nullptr;
}

Photometric task_of(const char* op, const PhotometricTensors& in) {
  constexpr int64_t kMost = 65535;  // of what a grid has along its second and third dimension
  TORCH_CHECK(in.color.size(0) <= kMost && in.color.size(1) <= kMost &&
                  in.color.numel() <= std::numeric_limits<int32_t>::max(),
              op,
              ": color may have up to 65535 images and rows, and 2^31 - 1 numbers on a GPU, got ",
              in.color.sizes());
  Photometric task{};
  task.num_images = static_cast<int>(in.color.size(0));
  task.height = static_cast<int>(in.color.size(1));
  task.width = static_cast<int>(in.color.size(2));
  task.color = in.color.const_data_ptr<float>();
  task.target = in.target_floats();
  task.target_bytes = in.target_bytes();
  task.gradient_weight = data(in.gradient_weight);
  task.value_weight = data(in.value_weight);
  return task;
}

std::tuple<at::Tensor, at::Tensor> photometric_cuda(
    const at::Tensor& color, const at::Tensor& target,
    const std::optional<at::Tensor>& gradient_weight, const std::optional<at::Tensor>& value_weight,
    double lambda_dssim, bool composite, bool wants_gradient) {
  const PhotometricTensors in =
      photometric_tensors("photometric_loss", color, target, gradient_weight, value_weight);
  const c10::cuda::CUDAGuard guard(color.device());
  const auto options = in.color.options();
  Photometric task = task_of("photometric_loss", in);
  task.composite = composite && gradient_weight;
  task.lambda_dssim = static_cast<float>(lambda_dssim);
  at::Tensor value = at::empty({}, options);
  at::Tensor gradient = wants_gradient ? at::empty_like(in.color) : at::empty({0}, options);
  at::Tensor errors = at::empty({photometric_blocks(task)}, options.dtype(at::kDouble));
  task.value = value.mutable_data_ptr<float>();
  task.errors = errors.mutable_data_ptr<double>();
  at::Tensor slopes;
  if (wants_gradient) {
    slopes = at::empty({3, in.color.numel()}, options);
    task.slopes = slopes.mutable_data_ptr<float>();
    task.gradient = gradient.mutable_data_ptr<float>();
  }
  photometric(task, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {value, gradient};
}

at::Tensor ssim_map_cuda(const at::Tensor& color, const at::Tensor& target) {
  const PhotometricTensors in = photometric_tensors("ssim_map", color, target);
  const c10::cuda::CUDAGuard guard(color.device());
  at::Tensor map = at::empty(in.color.sizes().slice(0, 3), in.color.options());
  ssim_map(task_of("ssim_map", in), map.mutable_data_ptr<float>(),
           c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return map;
}

}  // namespace
}  // namespace raster::cuda

TORCH_LIBRARY_IMPL(twinsplat_raster, CUDA, m) {
  m.impl("photometric", &raster::cuda::photometric_cuda);
  m.impl("ssim_map", &raster::cuda::ssim_map_cuda);
}
