// What the operators on learnt trust are given, checked; the same on every device.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace raster {

// All contiguous float32 on one device.
struct TrustTensors {
  at::Tensor logits, residual;  // [C, H, W]
  at::Tensor low, span;         // [C]
};

TrustTensors trust_tensors(const at::Tensor& logits, const at::Tensor& residual,
                           const at::Tensor& low, const at::Tensor& span);

// Contiguous; the bank is written in place and needs to be so already.
struct TrustStepTensors {
  at::Tensor rows;      // int64 [C]
  at::Tensor gradient;  // float32 [C, H, W]
  at::Tensor rates;     // float32 [U, 2]
};

TrustStepTensors trust_step_tensors(const at::Tensor& logits, const at::Tensor& exp_avg,
                                    const at::Tensor& exp_avg_sq, const at::Tensor& num_updates,
                                    const at::Tensor& rows, const at::Tensor& gradient,
                                    const at::Tensor& rates,
                                    const std::optional<at::Tensor>& frozen);

}  // namespace raster
