// Torch's side of the photometric loss: schema, checks, memory and threads.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <torch/library.h>

#include <optional>
#include <tuple>
#include <vector>

#include "cpu/photometric.h"
#include "parts.h"

namespace raster {
namespace {

void check_images(const char* op, const at::Tensor& color, const at::Tensor& target) {
  TORCH_CHECK(color.dim() == 4 && color.size(3) == 3 && color.scalar_type() == at::kFloat, op,
              ": color must be float32 [C, H, W, 3], got ", color.scalar_type(), " ",
              color.sizes());
  TORCH_CHECK(target.sizes() == color.sizes(), op, ": target must have the size of color, ",
              color.sizes(), ", got ", target.sizes());
  TORCH_CHECK(target.scalar_type() == at::kFloat || target.scalar_type() == at::kByte, op,
              ": target must be float32 in [0, 1] or uint8, got ", target.scalar_type());
  TORCH_CHECK(color.numel() > 0, op, ": color must have at least one pixel, got ", color.sizes());
}

std::optional<at::Tensor> checked_weight(const char* name, const std::optional<at::Tensor>& weight,
                                         const at::Tensor& color) {
  if (!weight) return std::nullopt;
  TORCH_CHECK(weight->scalar_type() == at::kFloat && weight->sizes() == color.sizes().slice(0, 3),
              "photometric_loss: ", name, " must be float32 ", color.sizes().slice(0, 3), ", got ",
              weight->scalar_type(), " ", weight->sizes());
  return weight->contiguous();
}

// Fills task.map and task.gradient where they are wanted; returns the weighted sum of the error.
double run(Photometric& task, const at::Tensor& color, const at::Tensor& target) {
  task.num_images = color.size(0);
  task.height = color.size(1);
  task.width = color.size(2);
  task.color = color.const_data_ptr<float>();
  const bool is_bytes = target.scalar_type() == at::kByte;
  task.target = is_bytes ? nullptr : target.const_data_ptr<float>();
  task.target_bytes = is_bytes ? target.const_data_ptr<uint8_t>() : nullptr;
  const int64_t blocks = photometric_blocks(task), floats = photometric_scratch(task);
  std::vector<double> errors(blocks);
  task.errors = errors.data();
  over_parts(blocks, [&](int64_t block) {
    // Kept by the thread: fresh pages would cost more than the arithmetic.
    thread_local std::vector<float> scratch;
    if (static_cast<int64_t>(scratch.size()) < floats) scratch.resize(floats);
    photometric_block(task, block, scratch.data());
  });
  double total = 0;
  for (double error : errors) total += error;
  return total;
}

std::tuple<at::Tensor, at::Tensor> photometric(const at::Tensor& color, const at::Tensor& target,
                                               const std::optional<at::Tensor>& gradient_weight,
                                               const std::optional<at::Tensor>& value_weight,
                                               double lambda_dssim, bool wants_gradient) {
  check_images("photometric_loss", color, target);
  const at::Tensor x = color.contiguous(), y = target.contiguous();
  const auto g = checked_weight("gradient_weight", gradient_weight, color);
  const auto w = checked_weight("value_weight", value_weight, color);
  at::Tensor gradient = wants_gradient ? at::empty_like(x) : at::empty({0}, x.options());
  Photometric task{};
  task.gradient_weight = g ? g->const_data_ptr<float>() : nullptr;
  task.value_weight = w ? w->const_data_ptr<float>() : nullptr;
  task.lambda_dssim = static_cast<float>(lambda_dssim);
  task.gradient = wants_gradient ? gradient.mutable_data_ptr<float>() : nullptr;
  const double value = run(task, x, y) / static_cast<double>(task.values());
  return {at::scalar_tensor(value, x.options()), gradient};
}

at::Tensor ssim_map(const at::Tensor& color, const at::Tensor& target) {
  check_images("ssim_map", color, target);
  const at::Tensor x = color.contiguous(), y = target.contiguous();
  at::Tensor map = at::empty(x.sizes().slice(0, 3), x.options());
  Photometric task{};
  task.map = map.mutable_data_ptr<float>();
  run(task, x, y);
  return map;
}

}  // namespace
}  // namespace raster

TORCH_LIBRARY_FRAGMENT(twinsplat_raster, m) {
  m.def(
      "photometric(Tensor color, Tensor target, Tensor? gradient_weight, Tensor? value_weight, "
      "float lambda_dssim, bool wants_gradient) -> (Tensor value, Tensor gradient)");
  m.def("ssim_map(Tensor color, Tensor target) -> Tensor");
}

TORCH_LIBRARY_IMPL(twinsplat_raster, CPU, m) {
  m.impl("photometric", &raster::photometric);
  m.impl("ssim_map", &raster::ssim_map);
}
