// What kth_smallest is given, checked; the same on every device.
#pragma once

#include <ATen/core/Tensor.h>

namespace raster {

// `values` are float32 [C, n] of one size and device, with a rank from 1 for each of them.
void check_kth_smallest(at::TensorList values, at::IntArrayRef ks);

}  // namespace raster
