// What the operators on statistics are given, checked; the same on every device.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace raster {

// The gradients and radii, contiguous; the sums are written in place and need to be so already.
struct ObserveTensors {
  at::Tensor v_means2d, radii;
  std::optional<at::Tensor> v_absgrad;
};

ObserveTensors observe_tensors(const at::Tensor& grad_sum,
                               const std::optional<at::Tensor>& absgrad_sum,
                               const at::Tensor& count, const at::Tensor& v_means2d,
                               const std::optional<at::Tensor>& v_absgrad, const at::Tensor& radii,
                               int64_t width, int64_t height,
                               const std::optional<at::Tensor>& frozen);

void check_watch(const at::Tensor& guard, const at::Tensor& counts, int64_t capacity,
                 const at::Tensor& frozen);

void check_count_step(const at::Tensor& guard, const at::Tensor& frozen, const at::Tensor& loss);

}  // namespace raster
