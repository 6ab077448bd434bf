// The trust in segments on the GPU: torch's side of the kernels.
#include "../segments.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <limits>

#include "kernels/segments.h"

namespace raster::cuda {
namespace {

at::Tensor segment_trust_cuda(const at::Tensor& by_color, const at::Tensor& by_feature,
                              const at::Tensor& high_color, const at::Tensor& high_feature,
                              const at::Tensor& usual, const at::Tensor& rows,
                              const at::Tensor& pixels, const at::Tensor& segments,
                              const at::Tensor& areas, double least_feature, double span,
                              double most_distrust) {
  const SegmentTensors in = segment_tensors(by_color, by_feature, high_color, high_feature, usual,
                                            rows, pixels, segments, areas);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 2;
  TORCH_CHECK(in.num_photos() <= 65535 && in.num_pixels() <= kMost && pixels.size(1) <= kMost,
              "segment_trust: there may be up to 65535 photos of 2^30 pixels and entries on a GPU, "
              "got by_color ",
              by_color.sizes(), " and pixels ", pixels.sizes());
  const c10::cuda::CUDAGuard guard(by_color.device());
  SegmentTask task{};
  task.num_photos = static_cast<int>(in.num_photos());
  task.num_pixels = static_cast<int>(in.num_pixels());
  task.num_entries = static_cast<int>(pixels.size(1));
  task.num_segments = static_cast<int>(areas.size(1));
  task.by_color = in.by_color.const_data_ptr<float>();
  task.by_feature = in.by_feature.const_data_ptr<float>();
  task.high_color = in.high_color.const_data_ptr<float>();
  task.high_feature = in.high_feature.const_data_ptr<float>();
  task.usual = in.usual.const_data_ptr<float>();
  task.rows = in.rows.const_data_ptr<int64_t>();
  task.pixels = in.pixels.const_data_ptr<int32_t>();
  task.segments = in.segments.const_data_ptr<int32_t>();
  task.areas = in.areas.const_data_ptr<double>();
  task.least_feature = least_feature;
  task.span = static_cast<float>(span);
  task.most_distrust = most_distrust;
  at::Tensor trust = at::empty(by_color.sizes(), in.by_color.options());
  at::Tensor sums =
      at::empty({segment_sums(task)}, in.by_color.options().dtype(at::ScalarType::Long));
  task.sums = sums.mutable_data_ptr<int64_t>();
  task.trust = trust.mutable_data_ptr<float>();
  segment_trust(task, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return trust;
}

}  // namespace
}  // namespace raster::cuda

TORCH_LIBRARY_IMPL(twinsplat_raster, CUDA, m) {
  m.impl("segment_trust", &raster::cuda::segment_trust_cuda);
}
