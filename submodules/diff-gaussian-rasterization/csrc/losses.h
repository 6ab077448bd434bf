// What the photometric operators are given, checked and made contiguous; the same on every device.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace raster {

// Contiguous; pictures of the same photos.
struct PhotometricTensors {
  std::vector<at::Tensor> colors;                           // float32 [C, H, W, 3]
  at::Tensor target;                                        // float32 in [0, 1] or uint8, likewise
  std::vector<at::Tensor> gradient_weights, value_weights;  // float32 [C, H, W], or none at all

  const float* target_floats() const {
    return has_bytes() ? nullptr : target.const_data_ptr<float>();
  }
  const uint8_t* target_bytes() const {
    return has_bytes() ? target.const_data_ptr<uint8_t>() : nullptr;
  }
  bool has_bytes() const { return target.scalar_type() == at::kByte; }
  const float* gradient_weight(size_t i) const { return data(gradient_weights, i); }
  const float* value_weight(size_t i) const { return data(value_weights, i); }

 private:
  static const float* data(const std::vector<at::Tensor>& weights, size_t i) {
    return weights.empty() ? nullptr : weights[i].const_data_ptr<float>();
  }
};

PhotometricTensors photometric_tensors(const char* op, at::TensorList colors,
                                       const at::Tensor& target,
                                       at::TensorList gradient_weights = {},
                                       at::TensorList value_weights = {});

// Of one tensor with all pictures: [B, C, H, W, 3].
std::vector<int64_t> stacked_sizes(const PhotometricTensors& in);

}  // namespace raster
