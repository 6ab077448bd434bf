// What kth_smallest is given, checked; the same on every device.
#pragma once

#include <ATen/core/Tensor.h>

namespace raster {

void check_kth_smallest(const at::Tensor& values, int64_t k);

}  // namespace raster
