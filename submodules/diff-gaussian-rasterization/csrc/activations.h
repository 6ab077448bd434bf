// What the activations are given, checked and made contiguous; the same on every device.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace raster {

struct ActivateTensors {
  at::Tensor log_scales, opacity_logits;
  std::optional<at::Tensor> filter_3d;

  const float* filter() const { return filter_3d ? filter_3d->const_data_ptr<float>() : nullptr; }
};

ActivateTensors activate_tensors(const at::Tensor& log_scales, const at::Tensor& opacity_logits,
                                 const std::optional<at::Tensor>& filter_3d);

struct ActivateUpstream {
  at::Tensor scales, opacities;
};

ActivateUpstream activate_upstream(const ActivateTensors& in, const at::Tensor& v_scales,
                                   const at::Tensor& v_opacities);

}  // namespace raster
