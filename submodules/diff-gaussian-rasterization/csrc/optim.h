// What adam_step_ is given, checked; the same on every device.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace raster {

struct AdamTensors {
  at::TensorList params, grads, exp_avgs, exp_avg_sqs;
  at::TensorList averages;            // none, or as many as params
  at::Tensor rates;                   // contiguous [n, 2], on the CPU or on the parameters' device
  std::optional<at::Tensor> visible;  // contiguous int32 [M], positive = updated
  std::optional<at::Tensor> frozen;   // int32 [1]

  // Floats in one row of a tensor that has one row for each entry of `visible`.
  int64_t row_floats(size_t index) const {
    return visible && visible->numel() > 0 ? params[index].numel() / visible->numel() : 0;
  }
};

AdamTensors adam_tensors(at::TensorList params, at::TensorList grads, at::TensorList exp_avgs,
                         at::TensorList exp_avg_sqs, at::TensorList averages,
                         const at::Tensor& rates, double decay,
                         const std::optional<at::Tensor>& visible,
                         const std::optional<at::Tensor>& frozen);

}  // namespace raster
