// What mean_difference is given, checked; the same on every device.
#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

namespace raster {

// Both contiguous float32 of one size and device.
std::pair<at::Tensor, at::Tensor> difference_tensors(const at::Tensor& a, const at::Tensor& b);

void check_v_value(const at::Tensor& v_value, const at::Tensor& a);

}  // namespace raster
