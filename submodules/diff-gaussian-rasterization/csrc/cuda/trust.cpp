// The learnt trust on the GPU: torch's side of the kernels.
#include "../trust.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <limits>
#include <tuple>

#include "kernels/trust.h"

namespace raster::cuda {
namespace {

void check_size(const char* op, const at::Tensor& photos) {
  TORCH_CHECK(photos.size(0) <= 65535 &&
                  photos.numel() / photos.size(0) <= std::numeric_limits<int32_t>::max() / 2,
              op, ": there may be up to 65535 photos of 2^30 pixels on a GPU, got ",
              photos.sizes());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> trust_loss_cuda(const at::Tensor& logits,
                                                               const at::Tensor& residual,
                                                               const at::Tensor& low,
                                                               const at::Tensor& span,
                                                               double sharpness) {
  const TrustTensors in = trust_tensors(logits, residual, low, span);
  check_size("trust_loss", logits);
  const c10::cuda::CUDAGuard guard(logits.device());
  const auto options = in.logits.options();
  TrustTask task{};
  task.num_photos = static_cast<int>(logits.size(0));
  task.num_pixels = static_cast<int>(logits.size(1) * logits.size(2));
  task.logits = in.logits.const_data_ptr<float>();
  task.residual = in.residual.const_data_ptr<float>();
  task.low = in.low.const_data_ptr<float>();
  task.span = in.span.const_data_ptr<float>();
  task.sharpness = static_cast<float>(sharpness);
  at::Tensor value = at::empty({}, options);
  at::Tensor weight = at::empty_like(in.logits), slopes = at::empty_like(in.logits);
  at::Tensor errors = at::empty({trust_blocks(task)}, options.dtype(at::kDouble));
  task.errors = errors.mutable_data_ptr<double>();
  task.value = value.mutable_data_ptr<float>();
  task.trust = weight.mutable_data_ptr<float>();
  task.slopes = slopes.mutable_data_ptr<float>();
  trust(task, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {value, weight, slopes};
}

void trust_step_cuda(const at::Tensor& logits, const at::Tensor& exp_avg,
                     const at::Tensor& exp_avg_sq, const at::Tensor& num_updates,
                     const at::Tensor& rows, const at::Tensor& gradient, const at::Tensor& rates,
                     double beta1, double beta2, double eps, double most,
                     const std::optional<at::Tensor>& frozen) {
  const TrustStepTensors in =
      trust_step_tensors(logits, exp_avg, exp_avg_sq, num_updates, rows, gradient, rates, frozen);
  check_size("trust_step_", gradient);
  const c10::cuda::CUDAGuard guard(logits.device());
  TrustStep step{};
  step.num_rows = static_cast<int>(rows.size(0));
  step.num_pixels = static_cast<int>(logits.size(1) * logits.size(2));
  step.rows = in.rows.const_data_ptr<int64_t>();
  step.gradient = in.gradient.const_data_ptr<float>();
  step.logits = logits.mutable_data_ptr<float>();
  step.exp_avg = exp_avg.mutable_data_ptr<float>();
  step.exp_avg_sq = exp_avg_sq.mutable_data_ptr<float>();
  step.num_updates = num_updates.mutable_data_ptr<int64_t>();
  step.rates = in.rates.const_data_ptr<float>();
  step.num_rates = static_cast<int>(rates.size(0));
  step.to_mean = static_cast<float>(1 - beta1);
  step.beta2 = static_cast<float>(beta2);
  step.to_square = static_cast<float>(1 - beta2);
  step.eps = static_cast<float>(eps);
  step.most = static_cast<float>(most);
  step.frozen = frozen ? frozen->const_data_ptr<int32_t>() : nullptr;
  trust_step(step, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace
}  // namespace raster::cuda

TORCH_LIBRARY_IMPL(twinsplat_raster, CUDA, m) {
  m.impl("trust_loss", &raster::cuda::trust_loss_cuda);
  m.impl("trust_step_", &raster::cuda::trust_step_cuda);
}
