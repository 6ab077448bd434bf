// The photometric loss on the GPU: torch's side of the kernels.
#include "../losses.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <limits>
#include <tuple>

#include "kernels/losses.h"

namespace raster::cuda {
namespace {

Photometric task_of(const char* op, const PhotometricTensors& in) {
  constexpr int64_t kMost = 65535;  // of what a grid has along its second and third dimension
  const at::Tensor& color = in.colors[0];
  const int64_t pictures = in.colors.size();
  TORCH_CHECK(pictures <= kMostPhotometric, op, ": there may be up to ", kMostPhotometric,
              " colors on a GPU, got ", pictures);
  TORCH_CHECK(pictures * color.size(0) <= kMost && color.size(1) <= kMost &&
                  color.numel() <= std::numeric_limits<int32_t>::max(),
              op,
              ": color may have up to 65535 images and rows, and 2^31 - 1 numbers on a GPU, got ",
              color.sizes());
  Photometric task{};
  task.num_pictures = static_cast<int>(pictures);
  task.num_photos = static_cast<int>(color.size(0));
  task.height = static_cast<int>(color.size(1));
  task.width = static_cast<int>(color.size(2));
  for (int i = 0; i < task.num_pictures; ++i) {
    task.colors[i] = in.colors[i].const_data_ptr<float>();
    task.gradient_weights[i] = in.gradient_weight(i);
    task.value_weights[i] = in.value_weight(i);
  }
  task.target = in.target_floats();
  task.target_bytes = in.target_bytes();
  return task;
}

std::tuple<at::Tensor, at::Tensor> photometric_cuda(at::TensorList colors, const at::Tensor& target,
                                                    at::TensorList gradient_weights,
                                                    at::TensorList value_weights,
                                                    double lambda_dssim, bool composite,
                                                    bool wants_gradient) {
  const PhotometricTensors in =
      photometric_tensors("photometric_loss", colors, target, gradient_weights, value_weights);
  const c10::cuda::CUDAGuard guard(target.device());
  const auto options = in.colors[0].options();
  Photometric task = task_of("photometric_loss", in);
  task.composite = composite && !gradient_weights.empty();
  task.lambda_dssim = static_cast<float>(lambda_dssim);
  at::Tensor values = at::empty({task.num_pictures}, options);
  at::Tensor gradient = at::empty({0}, options);
  at::Tensor errors = at::empty({photometric_blocks(task)}, options.dtype(at::kDouble));
  task.values = values.mutable_data_ptr<float>();
  task.errors = errors.mutable_data_ptr<double>();
  at::Tensor slopes;
  if (wants_gradient) {
    gradient = at::empty(stacked_sizes(in), options);
    slopes = at::empty({3, gradient.numel()}, options);
    task.slopes = slopes.mutable_data_ptr<float>();
    task.gradient = gradient.mutable_data_ptr<float>();
  }
  photometric(task, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {values, gradient};
}

at::Tensor ssim_map_cuda(const at::Tensor& color, const at::Tensor& target) {
  const PhotometricTensors in = photometric_tensors("ssim_map", color, target);
  const c10::cuda::CUDAGuard guard(color.device());
  at::Tensor map = at::empty(color.sizes().slice(0, 3), color.options());
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
