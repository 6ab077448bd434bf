// Adam on the GPU: torch's side of the kernel.
#include "../optim.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>

#include "kernels/optim.h"

namespace raster::cuda {
namespace {

void adam_step_cuda(at::TensorList params, at::TensorList grads, at::TensorList exp_avgs,
                    at::TensorList exp_avg_sqs, at::TensorList averages, const at::Tensor& rates,
                    double beta1, double beta2, double eps, double decay,
                    const std::optional<at::Tensor>& visible,
                    const std::optional<at::Tensor>& frozen) {
  if (params.empty()) return;
  const AdamTensors in =
      adam_tensors(params, grads, exp_avgs, exp_avg_sqs, averages, rates, decay, visible, frozen);
  const c10::cuda::CUDAGuard guard(params[0].device());
  const float* rate = in.rates.const_data_ptr<float>();
  const bool by_value = in.rates.is_cpu();
  AdamStep step{};
  step.to_mean = static_cast<float>(1 - beta1);
  step.beta2 = static_cast<float>(beta2);
  step.to_square = static_cast<float>(1 - beta2);
  step.eps = static_cast<float>(eps);
  step.decay = static_cast<float>(decay);
  step.to_average = static_cast<float>(1 - decay);
  step.visible = in.visible ? in.visible->const_data_ptr<int32_t>() : nullptr;
  step.frozen = frozen ? frozen->const_data_ptr<int32_t>() : nullptr;
  for (size_t first = 0; first < params.size(); first += kMaxAdamTensors) {
    step.num_tensors = static_cast<int>(std::min<size_t>(params.size() - first, kMaxAdamTensors));
    step.rates = by_value ? nullptr : rate + 2 * first;
    for (int i = 0; i < step.num_tensors; ++i) {
      const size_t at = first + i;
      const int64_t row = in.row_floats(at);
      TORCH_CHECK(row <= std::numeric_limits<int32_t>::max(), "adam_step_: params[", at,
                  "] must have fewer than 2^31 floats in a row, got ", row);
      step.tensors[i] = {params[at].mutable_data_ptr<float>(),
                         grads[at].const_data_ptr<float>(),
                         exp_avgs[at].mutable_data_ptr<float>(),
                         exp_avg_sqs[at].mutable_data_ptr<float>(),
                         averages.empty() ? nullptr : averages[at].mutable_data_ptr<float>(),
                         params[at].numel(),
                         static_cast<uint32_t>(row),
                         by_value ? rate[2 * at] : 0.0f,
                         by_value ? rate[2 * at + 1] : 0.0f};
    }
    adam_step(step, c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

}  // namespace
}  // namespace raster::cuda

TORCH_LIBRARY_IMPL(twinsplat_raster, CUDA, m) {
  m.impl("adam_step_", &raster::cuda::adam_step_cuda);
}
