// What segment_trust is given, checked; the same on every device.
#pragma once

#include <ATen/core/Tensor.h>

namespace raster {

// All contiguous, on one device. C photos of H x W pixels; tables of V photos with K entries and S
// segments.
struct SegmentTensors {
  at::Tensor by_color, by_feature;             // float32 [C, H, W]
  at::Tensor high_color, high_feature, usual;  // float32 [C]
  at::Tensor rows;                             // int64 [C]
  at::Tensor pixels, segments;                 // int32 [V, K]
  at::Tensor areas;                            // float64 [V, S]

  int64_t num_photos() const { return by_color.size(0); }
  int64_t num_pixels() const { return by_color.size(1) * by_color.size(2); }
};

SegmentTensors segment_tensors(const at::Tensor& by_color, const at::Tensor& by_feature,
                               const at::Tensor& high_color, const at::Tensor& high_feature,
                               const at::Tensor& usual, const at::Tensor& rows,
                               const at::Tensor& pixels, const at::Tensor& segments,
                               const at::Tensor& areas);

}  // namespace raster
