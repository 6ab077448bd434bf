// Torch's side of the trust in segments: schema and checks. There are kernels for GPUs only;
// elsewhere the caller has torch's own operators.
#include "segments.h"

#include <torch/library.h>

#include "arguments.h"

namespace raster {
namespace {

constexpr const char* kOp = "segment_trust";

}  // namespace

SegmentTensors segment_tensors(const at::Tensor& by_color, const at::Tensor& by_feature,
                               const at::Tensor& high_color, const at::Tensor& high_feature,
                               const at::Tensor& usual, const at::Tensor& rows,
                               const at::Tensor& pixels, const at::Tensor& segments,
                               const at::Tensor& areas) {
  TORCH_CHECK(by_color.dim() == 3 && by_color.numel() > 0, kOp,
              ": by_color must be float32 [C, H, W], got ", by_color.scalar_type(), " ",
              by_color.sizes());
  TORCH_CHECK(pixels.dim() == 2 && pixels.numel() > 0 && areas.dim() == 2 && areas.numel() > 0, kOp,
              ": pixels must be int32 [V, K] and areas float64 [V, S], got ", pixels.sizes(),
              " and ", areas.sizes());
  const int64_t C = by_color.size(0), H = by_color.size(1), W = by_color.size(2);
  const int64_t V = pixels.size(0), K = pixels.size(1);
  const at::Device device = by_color.device();
  check(kOp, "by_color", by_color, {C, H, W}, device);
  check(kOp, "by_feature", by_feature, {C, H, W}, device);
  check(kOp, "high_color", high_color, {C}, device);
  check(kOp, "high_feature", high_feature, {C}, device);
  check(kOp, "usual", usual, {C}, device);
  check(kOp, "rows", rows, {C}, device, at::kLong);
  check(kOp, "pixels", pixels, {V, K}, device, at::kInt);
  check(kOp, "segments", segments, {V, K}, device, at::kInt);
  check(kOp, "areas", areas, {V, kAny}, device, at::kDouble);
  return {by_color.contiguous(),     by_feature.contiguous(), high_color.contiguous(),
          high_feature.contiguous(), usual.contiguous(),      rows.contiguous(),
          pixels.contiguous(),       segments.contiguous(),   areas.contiguous()};
}

}  // namespace raster

TORCH_LIBRARY_FRAGMENT(twinsplat_raster, m) {
  m.def(
      "segment_trust(Tensor by_color, Tensor by_feature, Tensor high_color, Tensor high_feature, "
      "Tensor usual, Tensor rows, Tensor pixels, Tensor segments, Tensor areas, float "
      "least_feature, float span, float most_distrust) -> Tensor");
}
