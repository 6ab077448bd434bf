// Torch's side of the activations: schemas, checks, memory and threads.
#include "activations.h"

#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <tuple>

#include "cpu/activate.h"
#include "parts.h"

namespace raster {
namespace {

constexpr int64_t kPart = 8192;  // Gaussians per part

void check_rows(const char* name, const at::Tensor& tensor, const at::Tensor& log_scales) {
  TORCH_CHECK(tensor.scalar_type() == at::kFloat && tensor.dim() == 1 &&
                  tensor.size(0) == log_scales.size(0) && tensor.device() == log_scales.device(),
              "activate: ", name, " must be float32 [", log_scales.size(0), "] on ",
              log_scales.device(), ", got ", tensor.scalar_type(), " ", tensor.sizes(), " on ",
              tensor.device());
}

Activate task_of(const ActivateTensors& in) {
  Activate task{};
  task.log_scales = in.log_scales.const_data_ptr<float>();
  task.opacity_logits = in.opacity_logits.const_data_ptr<float>();
  task.filter_3d = in.filter();
  return task;
}

template <class Work>
void over_rows(int64_t rows, const Work& work) {
  over_parts((rows + kPart - 1) / kPart, [&](int64_t part) {
    const int64_t begin = part * kPart;
    work(begin, rows < begin + kPart ? rows : begin + kPart);
  });
}

std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& log_scales,
                                           const at::Tensor& opacity_logits,
                                           const std::optional<at::Tensor>& filter_3d) {
  const ActivateTensors in = activate_tensors(log_scales, opacity_logits, filter_3d);
  at::Tensor scales = at::empty_like(in.log_scales);
  at::Tensor opacities = at::empty_like(in.opacity_logits);
  Activate task = task_of(in);
  task.scales = scales.mutable_data_ptr<float>();
  task.opacities = opacities.mutable_data_ptr<float>();
  over_rows(scales.size(0), [&](int64_t begin, int64_t end) { activate(task, begin, end); });
  return {scales, opacities};
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& log_scales,
                                            const at::Tensor& opacity_logits,
                                            const std::optional<at::Tensor>& filter_3d,
                                            const at::Tensor& v_scales,
                                            const at::Tensor& v_opacities) {
  const ActivateTensors in = activate_tensors(log_scales, opacity_logits, filter_3d);
  const ActivateUpstream upstream = activate_upstream(in, v_scales, v_opacities);
  at::Tensor v_log_scales = at::empty_like(in.log_scales);
  at::Tensor v_logits = at::empty_like(in.opacity_logits);
  const ActivateGradients gradients{
      upstream.scales.const_data_ptr<float>(), upstream.opacities.const_data_ptr<float>(),
      v_log_scales.mutable_data_ptr<float>(), v_logits.mutable_data_ptr<float>()};
  const Activate task = task_of(in);
  over_rows(v_log_scales.size(0),
            [&](int64_t begin, int64_t end) { activate_backward(task, gradients, begin, end); });
  return {v_log_scales, v_logits};
}

}  // namespace

ActivateTensors activate_tensors(const at::Tensor& log_scales, const at::Tensor& opacity_logits,
                                 const std::optional<at::Tensor>& filter_3d) {
  TORCH_CHECK(
      log_scales.scalar_type() == at::kFloat && log_scales.dim() == 2 && log_scales.size(1) == 3,
      "activate: log_scales must be float32 [M, 3], got ", log_scales.scalar_type(), " ",
      log_scales.sizes());
  check_rows("opacity_logits", opacity_logits, log_scales);
  if (filter_3d) check_rows("filter_3d", *filter_3d, log_scales);
  return {log_scales.contiguous(), opacity_logits.contiguous(),
          filter_3d ? std::optional(filter_3d->contiguous()) : std::nullopt};
}

ActivateUpstream activate_upstream(const ActivateTensors& in, const at::Tensor& v_scales,
                                   const at::Tensor& v_opacities) {
  TORCH_CHECK(v_scales.sizes() == in.log_scales.sizes() && v_scales.scalar_type() == at::kFloat &&
                  v_scales.device() == in.log_scales.device(),
              "activate: the gradient of scales must be float32 ", in.log_scales.sizes(), " on ",
              in.log_scales.device(), ", got ", v_scales.scalar_type(), " ", v_scales.sizes(),
              " on ", v_scales.device());
  check_rows("the gradient of opacities", v_opacities, in.log_scales);
  return {v_scales.contiguous(), v_opacities.contiguous()};
}

}  // namespace raster

TORCH_LIBRARY_FRAGMENT(twinsplat_raster, m) {
  m.def(
      "activate(Tensor log_scales, Tensor opacity_logits, Tensor? filter_3d) "
      "-> (Tensor scales, Tensor opacities)");
  m.def(
      "activate_backward(Tensor log_scales, Tensor opacity_logits, Tensor? filter_3d, "
      "Tensor v_scales, Tensor v_opacities) -> (Tensor v_log_scales, Tensor v_opacity_logits)");
}

TORCH_LIBRARY_IMPL(twinsplat_raster, CPU, m) {
  m.impl("activate", &raster::forward);
  m.impl("activate_backward", &raster::backward);
}
