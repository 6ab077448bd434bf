// What the residuals between pictures and photos are given, checked; the same on every device.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace raster {

// Contiguous; every picture has the size of `photos`.
struct ResidualTensors {
  std::vector<at::Tensor> pictures;  // float32 [C, H, W, 3]
  at::Tensor photos;                 // float32 in [0, 1] or uint8 [C, H, W, 3]

  int64_t num_photos() const { return photos.size(0); }
  int64_t height() const { return photos.size(1); }
  int64_t width() const { return photos.size(2); }
};

ResidualTensors residual_tensors(const char* op, at::TensorList pictures, const at::Tensor& photos);

// The separable filters of a grid of patches; contiguous float32 on the device of the photos.
struct PatchTensors {
  at::Tensor down;    // [h u, H]
  at::Tensor across;  // [w v, W]
  at::Tensor axes;    // [3, 3]
  at::Tensor grey;    // [3, u, v]

  int64_t num_down() const { return down.size(0) / grey.size(1); }
  int64_t num_across() const { return across.size(0) / grey.size(2); }
};

PatchTensors patch_tensors(const ResidualTensors& in, const at::Tensor& down,
                           const at::Tensor& across, const at::Tensor& axes,
                           const at::Tensor& grey);

}  // namespace raster
