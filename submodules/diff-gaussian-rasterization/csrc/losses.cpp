// Torch's side of the photometric loss: schema, checks, memory and threads.
#include "losses.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "cpu/photometric.h"
#include "parts.h"

namespace raster {
namespace {

std::vector<at::Tensor> checked_weights(const char* op, const char* name, at::TensorList weights,
                                        at::TensorList colors) {
  TORCH_CHECK(weights.empty() || weights.size() == colors.size(), op, ": ", name,
              " must be none or one for each of the ", colors.size(), " colors, got ",
              weights.size());
  std::vector<at::Tensor> checked;
  const at::Tensor& color = colors[0];
  for (const at::Tensor& weight : weights) {
    TORCH_CHECK(weight.scalar_type() == at::kFloat && weight.sizes() == color.sizes().slice(0, 3) &&
                    weight.device() == color.device(),
                op, ": ", name, " must be float32 ", color.sizes().slice(0, 3), " on ",
                color.device(), ", got ", weight.scalar_type(), " ", weight.sizes(), " on ",
                weight.device());
    checked.push_back(weight.contiguous());
  }
  return checked;
}

Photometric task_of(const PhotometricTensors& in, size_t picture) {
  const at::Tensor& color = in.colors[picture];
  Photometric task{};
  task.num_images = color.size(0);
  task.height = color.size(1);
  task.width = color.size(2);
  task.color = color.const_data_ptr<float>();
  task.target = in.target_floats();
  task.target_bytes = in.target_bytes();
  task.gradient_weight = in.gradient_weight(picture);
  task.value_weight = in.value_weight(picture);
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

std::tuple<at::Tensor, at::Tensor> photometric(at::TensorList colors, const at::Tensor& target,
                                               at::TensorList gradient_weights,
                                               at::TensorList value_weights, double lambda_dssim,
                                               bool composite, bool wants_gradient) {
  const PhotometricTensors in =
      photometric_tensors("photometric_loss", colors, target, gradient_weights, value_weights);
  const auto options = in.colors[0].options();
  const int64_t count = colors.size();
  at::Tensor values = at::empty({count}, options);
  at::Tensor gradient = at::empty({0}, options);
  if (wants_gradient) gradient = at::empty(stacked_sizes(in), options);
  for (int64_t i = 0; i < count; ++i) {
    Photometric task = task_of(in, i);
    task.composite = composite && task.gradient_weight;
    task.lambda_dssim = static_cast<float>(lambda_dssim);
    if (wants_gradient) task.gradient = gradient.mutable_data_ptr<float>() + i * task.values();
    const double value = run(task) / static_cast<double>(task.values());
    values.mutable_data_ptr<float>()[i] = static_cast<float>(value);
  }
  return {values, gradient};
}

at::Tensor ssim_map(const at::Tensor& color, const at::Tensor& target) {
  const PhotometricTensors in = photometric_tensors("ssim_map", color, target);
  at::Tensor map = at::empty(color.sizes().slice(0, 3), color.options());
  Photometric task = task_of(in, 0);
  task.map = map.mutable_data_ptr<float>();
  run(task);
  return map;
}

}  // namespace

PhotometricTensors photometric_tensors(const char* op, at::TensorList colors,
                                       const at::Tensor& target, at::TensorList gradient_weights,
                                       at::TensorList value_weights) {
  TORCH_CHECK(!colors.empty(), op, ": colors must have at least one tensor, got none");
  PhotometricTensors in;
  for (const at::Tensor& color : colors) {
    TORCH_CHECK(color.dim() == 4 && color.size(3) == 3 && color.scalar_type() == at::kFloat, op,
                ": color must be float32 [C, H, W, 3], got ", color.scalar_type(), " ",
                color.sizes());
    TORCH_CHECK(target.sizes() == color.sizes() && target.device() == color.device(), op,
                ": target must have the size of color, ", color.sizes(), " on ", color.device(),
                ", got ", target.sizes(), " on ", target.device());
    TORCH_CHECK(color.numel() > 0, op, ": color must have at least one pixel, got ", color.sizes());
    in.colors.push_back(color.contiguous());
  }
  TORCH_CHECK(target.scalar_type() == at::kFloat || target.scalar_type() == at::kByte, op,
              ": target must be float32 in [0, 1] or uint8, got ", target.scalar_type());
  in.target = target.contiguous();
  in.gradient_weights = checked_weights(op, "gradient_weight", gradient_weights, colors);
  in.value_weights = checked_weights(op, "value_weight", value_weights, colors);
  return in;
}

std::vector<int64_t> stacked_sizes(const PhotometricTensors& in) {
  std::vector<int64_t> sizes = in.colors[0].sizes().vec();
  sizes.insert(sizes.begin(), static_cast<int64_t>(in.colors.size()));
  return sizes;
}

}  // namespace raster

TORCH_LIBRARY_FRAGMENT(twinsplat_raster, m) {
  m.def(
      "photometric(Tensor[] colors, Tensor target, Tensor[] gradient_weights, Tensor[] "
      "value_weights, float lambda_dssim, bool composite, bool wants_gradient) -> (Tensor values, "
      "Tensor gradient)");
  m.def("ssim_map(Tensor color, Tensor target) -> Tensor");
}

TORCH_LIBRARY_IMPL(twinsplat_raster, CPU, m) {
  m.impl("photometric", &raster::photometric);
  m.impl("ssim_map", &raster::ssim_map);
}
