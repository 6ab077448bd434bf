// Torch's side of the photometric loss: schema, checks, memory and threads.
#include "losses.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "cpu/photometric.h"
#include "parts.h"

namespace raster {
namespace {

std::optional<at::Tensor> checked_weight(const char* op, const char* name,
                                         const std::optional<at::Tensor>& weight,
                                         const at::Tensor& color) {
  if (!weight) return std::nullopt;
  TORCH_CHECK(weight->scalar_type() == at::kFloat && weight->sizes() == color.sizes().slice(0, 3) &&
                  weight->device() == color.device(),
              op, ": ", name, " must be float32 ", color.sizes().slice(0, 3), " on ",
              color.device(), ", got ", weight->scalar_type(), " ", weight->sizes(), " on ",
              weight->device());
  return weight->contiguous();
}

Photometric task_of(const PhotometricTensors& in) {
  Photometric task{};
  task.num_images = in.color.size(0);
  task.height = in.color.size(1);
  task.width = in.color.size(2);
  task.color = in.color.const_data_ptr<float>();
  task.target = in.target_floats();
  task.target_bytes = in.target_bytes();
  task.gradient_weight = in.gradient_weight ? in.gradient_weight->const_data_ptr<float>() : nullptr;
  task.value_weight = in.value_weight ? in.value_weight->const_data_ptr<float>() : nullptr;
  return task;
}

// Fills task.map and task.gradient where they are wanted; returns the weighted sum of the error.
double run(Photometric& task) {
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
                                               double lambda_dssim, bool composite,
                                               bool wants_gradient) {
  const PhotometricTensors in =
      photometric_tensors("photometric_loss", color, target, gradient_weight, value_weight);
  at::Tensor gradient =
      wants_gradient ? at::empty_like(in.color) : at::empty({0}, in.color.options());
  Photometric task = task_of(in);
  task.composite = composite && gradient_weight;
  task.lambda_dssim = static_cast<float>(lambda_dssim);
  task.gradient = wants_gradient ? gradient.mutable_data_ptr<float>() : nullptr;
  const double value = run(task) / static_cast<double>(task.values());
  return {at::scalar_tensor(value, in.color.options()), gradient};
}

at::Tensor ssim_map(const at::Tensor& color, const at::Tensor& target) {
  const PhotometricTensors in = photometric_tensors("ssim_map", color, target);
  at::Tensor map = at::empty(in.color.sizes().slice(0, 3), in.color.options());
  Photometric task = task_of(in);
  task.map = map.mutable_data_ptr<float>();
  run(task);
  return map;
}

}  // namespace

PhotometricTensors photometric_tensors(const char* op, const at::Tensor& color,
                                       const at::Tensor& target,
                                       const std::optional<at::Tensor>& gradient_weight,
                                       const std::optional<at::Tensor>& value_weight) {
  TORCH_CHECK(color.dim() == 4 && color.size(3) == 3 && color.scalar_type() == at::kFloat, op,
              ": color must be float32 [C, H, W, 3], got ", color.scalar_type(), " ",
              color.sizes());
  TORCH_CHECK(target.sizes() == color.sizes() && target.device() == color.device(), op,
              ": target must have the size of color, ", color.sizes(), " on ", color.device(),
              ", got ", target.sizes(), " on ", target.device());
  TORCH_CHECK(target.scalar_type() == at::kFloat || target.scalar_type() == at::kByte, op,
              ": target must be float32 in [0, 1] or uint8, got ", target.scalar_type());
  TORCH_CHECK(color.numel() > 0, op, ": color must have at least one pixel, got ", color.sizes());
  return {color.contiguous(), target.contiguous(),
          checked_weight(op, "gradient_weight", gradient_weight, color),
          checked_weight(op, "value_weight", value_weight, color)};
}

}  // namespace raster

TORCH_LIBRARY_FRAGMENT(twinsplat_raster, m) {
  m.def(
      "photometric(Tensor color, Tensor target, Tensor? gradient_weight, Tensor? value_weight, "
      "float lambda_dssim, bool composite, bool wants_gradient) -> (Tensor value, Tensor "
      "gradient)");
  m.def("ssim_map(Tensor color, Tensor target) -> Tensor");
}

TORCH_LIBRARY_IMPL(twinsplat_raster, CPU, m) {
  m.impl("photometric", &raster::photometric);
  m.impl("ssim_map", &raster::ssim_map);
}
