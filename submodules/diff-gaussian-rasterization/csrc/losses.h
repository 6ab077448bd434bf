// What the photometric operators are given, checked and made contiguous; the same on every device.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace raster {

struct PhotometricTensors {
  at::Tensor color, target;
  std::optional<at::Tensor> gradient_weight, value_weight;

  const float* target_floats() const {
    return has_bytes() ? nullptr : target.const_data_ptr<float>();
  }
  const uint8_t* target_bytes() const {
    return has_bytes() ? target.const_data_ptr<uint8_t>() : nullptr;
  }
  bool has_bytes() const { return target.scalar_type() == at::kByte; }
};

PhotometricTensors photometric_tensors(const char* op, const at::Tensor& color,
                                       const at::Tensor& target,
                                       const std::optional<at::Tensor>& gradient_weight = {},
                                       const std::optional<at::Tensor>& value_weight = {});

}  // namespace raster
