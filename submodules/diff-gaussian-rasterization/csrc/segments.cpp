// Torch's side of the trust in segments: schema and checks. There are kernels for GPUs only;
// elsewhere the caller has torch's own operators.
#include "segments.h"

#include <torch/library.h>

namespace raster {
namespace {

at::Tensor checked(const char* name, const at::Tensor& tensor, at::ScalarType type,
                   at::IntArrayRef sizes, const at::Tensor& like) {
  TORCH_CHECK(
      tensor.scalar_type() == type && tensor.sizes() == sizes && tensor.device() == like.device(),
      "segment_trust: ", name, " must be ", type, " ", sizes, " on ", like.device(), ", got ",
      tensor.scalar_type(), " ", tensor.sizes(), " on ", tensor.device());
  return tensor.contiguous();
}

}  // namespace

SegmentTensors segment_tensors(const at::Tensor& by_color, const at::Tensor& by_feature,
                               const at::Tensor& high_color, const at::Tensor& high_feature,
                               const at::Tensor& usual, const at::Tensor& rows,
                               const at::Tensor& pixels, const at::Tensor& segments,
                               const at::Tensor& areas) {
  TORCH_CHECK(by_color.dim() == 3 && by_color.numel() > 0,
              "segment_trust: by_color must be float32 [C, H, W], got ", by_color.scalar_type(),
              " ", by_color.sizes());
  TORCH_CHECK(pixels.dim() == 2 && pixels.numel() > 0 && areas.dim() == 2 && areas.numel() > 0,
              "segment_trust: pixels must be int32 [V, K] and areas float64 [V, S], got ",
              pixels.sizes(), " and ", areas.sizes());
  const int64_t count = by_color.size(0);
  const at::Tensor& like = by_color;
  return {checked("by_color", by_color, at::kFloat, by_color.sizes(), like),
          checked("by_feature", by_feature, at::kFloat, by_color.sizes(), like),
          checked("high_color", high_color, at::kFloat, {count}, like),
          checked("high_feature", high_feature, at::kFloat, {count}, like),
          checked("usual", usual, at::kFloat, {count}, like),
          checked("rows", rows, at::kLong, {count}, like),
          checked("pixels", pixels, at::kInt, pixels.sizes(), like),
          checked("segments", segments, at::kInt, pixels.sizes(), like),
          checked("areas", areas, at::kDouble, {pixels.size(0), areas.size(1)}, like)};
}

}  // namespace raster

TORCH_LIBRARY_FRAGMENT(twinsplat_raster, m) {
  m.def(
      "segment_trust(Tensor by_color, Tensor by_feature, Tensor high_color, Tensor high_feature, "
      "Tensor usual, Tensor rows, Tensor pixels, Tensor segments, Tensor areas, float "
      "least_feature, float span, float most_distrust) -> Tensor");
}
