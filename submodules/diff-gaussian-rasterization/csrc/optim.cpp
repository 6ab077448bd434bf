// Torch's side of Adam: schema, checks and threads over all tensors of one step.
#include "optim.h"

#include <torch/library.h>

#include <vector>

#include "cpu/adam.h"
#include "frozen.h"
#include "parts.h"

namespace raster {
namespace {

constexpr int64_t kPart = 16384;  // floats per part

struct Part {
  size_t tensor;
  int64_t begin, end;
};

void check(const char* name, const at::Tensor& tensor, const at::Tensor& parameter, size_t index) {
  TORCH_CHECK(tensor.scalar_type() == at::kFloat && tensor.is_contiguous() &&
                  tensor.sizes() == parameter.sizes() && tensor.device() == parameter.device(),
              "adam_step_: ", name, "[", index, "] must be contiguous float32 ", parameter.sizes(),
              " on ", parameter.device(), ", got ", tensor.is_contiguous() ? "" : "non-contiguous ",
              tensor.scalar_type(), " ", tensor.sizes(), " on ", tensor.device());
}

std::optional<at::Tensor> checked_visible(const std::optional<at::Tensor>& visible,
                                          at::TensorList params) {
  if (!visible) return std::nullopt;
  TORCH_CHECK((visible->scalar_type() == at::kInt || visible->scalar_type() == at::kBool) &&
                  visible->dim() == 1,
              "adam_step_: visible must be int32 or bool [M], got ", visible->scalar_type(), " ",
              visible->sizes());
  for (size_t i = 0; i < params.size(); ++i) {
    TORCH_CHECK(params[i].dim() > 0 && params[i].size(0) == visible->size(0) &&
                    params[i].device() == visible->device(),
                "adam_step_: params[", i, "] must have one row for each of the ", visible->size(0),
                " entries of visible on ", visible->device(), ", got ", params[i].sizes(), " on ",
                params[i].device());
  }
  return visible->to(at::kInt).contiguous();
}

void adam_step(at::TensorList params, at::TensorList grads, at::TensorList exp_avgs,
               at::TensorList exp_avg_sqs, at::TensorList averages, const at::Tensor& rates,
               double beta1, double beta2, double eps, double decay,
               const std::optional<at::Tensor>& visible, const std::optional<at::Tensor>& frozen) {
  const AdamTensors in =
      adam_tensors(params, grads, exp_avgs, exp_avg_sqs, averages, rates, decay, visible, frozen);
  if (is_frozen(frozen)) return;
  std::vector<Adam> tasks;
  std::vector<AdamRate> task_rates;
  std::vector<Part> parts;
  const float* rate = in.rates.const_data_ptr<float>();
  for (size_t i = 0; i < params.size(); ++i) {
    tasks.push_back(
        {params[i].mutable_data_ptr<float>(), grads[i].const_data_ptr<float>(),
         exp_avgs[i].mutable_data_ptr<float>(), exp_avg_sqs[i].mutable_data_ptr<float>(),
         averages.empty() ? nullptr : averages[i].mutable_data_ptr<float>(),
         in.visible ? in.visible->const_data_ptr<int32_t>() : nullptr, in.row_floats(i)});
    task_rates.push_back({rate[2 * i], rate[2 * i + 1], static_cast<float>(1 - beta1),
                          static_cast<float>(beta2), static_cast<float>(1 - beta2),
                          static_cast<float>(eps), static_cast<float>(decay),
                          static_cast<float>(1 - decay)});
    const int64_t floats = params[i].numel();
    for (int64_t start = 0; start < floats; start += kPart) {
      parts.push_back({i, start, floats - start < kPart ? floats : start + kPart});
    }
  }
  over_parts(static_cast<int64_t>(parts.size()), [&](int64_t i) {
    const Part& part = parts[i];
    adam(tasks[part.tensor], task_rates[part.tensor], part.begin, part.end);
  });
}

}  // namespace

AdamTensors adam_tensors(at::TensorList params, at::TensorList grads, at::TensorList exp_avgs,
                         at::TensorList exp_avg_sqs, at::TensorList averages,
                         const at::Tensor& rates, double decay,
                         const std::optional<at::Tensor>& visible,
                         const std::optional<at::Tensor>& frozen) {
  const size_t count = params.size();
  TORCH_CHECK(grads.size() == count && exp_avgs.size() == count && exp_avg_sqs.size() == count,
              "adam_step_: params, grads, exp_avgs and exp_avg_sqs must be equally many, got ",
              count, ", ", grads.size(), ", ", exp_avgs.size(), " and ", exp_avg_sqs.size());
  TORCH_CHECK(averages.empty() || averages.size() == count,
              "adam_step_: averages must be none or one for each of the ", count, " params, got ",
              averages.size());
  TORCH_CHECK(decay >= 0 && decay <= 1, "adam_step_: decay must lie in [0, 1], got ", decay);
  TORCH_CHECK(rates.scalar_type() == at::kFloat && rates.dim() == 2 &&
                  rates.size(0) == static_cast<int64_t>(count) && rates.size(1) == 2,
              "adam_step_: rates must be float32 [", count,
              ", 2], one row for each of the params, "
              "got ",
              rates.scalar_type(), " ", rates.sizes());
  for (size_t i = 0; i < count; ++i) {
    check("params", params[i], params[i], i);
    check("grads", grads[i], params[i], i);
    check("exp_avgs", exp_avgs[i], params[i], i);
    check("exp_avg_sqs", exp_avg_sqs[i], params[i], i);
    if (!averages.empty()) check("averages", averages[i], params[i], i);
    TORCH_CHECK(params[i].device() == params[0].device(), "adam_step_: params[", i, "] must be on ",
                params[0].device(), " as params[0], got ", params[i].device());
  }
  const at::Device device = count > 0 ? params[0].device() : rates.device();
  TORCH_CHECK(rates.device() == device || rates.device().is_cpu(), "adam_step_: rates must be on ",
              device, " or on the CPU, got ", rates.device());
  check_frozen("adam_step_", frozen, device);
  return {params,
          grads,
          exp_avgs,
          exp_avg_sqs,
          averages,
          rates.contiguous(),
          checked_visible(visible, params),
          frozen};
}

}  // namespace raster

TORCH_LIBRARY_FRAGMENT(twinsplat_raster, m) {
  m.def(
      "adam_step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
      "Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] averages, Tensor rates, float beta1, float beta2, "
      "float eps, float decay, Tensor? visible, Tensor? frozen) -> ()");
}

TORCH_LIBRARY_IMPL(twinsplat_raster, CPU, m) { m.impl("adam_step_", &raster::adam_step); }
