// Torch's side of Adam: schema, checks and threads over all tensors of one step.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <cmath>
#include <vector>

#include "cpu/adam.h"
#include "parts.h"

namespace raster {
namespace {

constexpr int64_t kPart = 16384;  // floats per part

struct Part {
  Adam run;
  size_t tensor;
};

void check(const char* name, const at::Tensor& tensor, const at::Tensor& parameter, size_t index) {
  TORCH_CHECK(tensor.scalar_type() == at::kFloat && tensor.is_contiguous() &&
                  tensor.sizes() == parameter.sizes(),
              "adam_step_: ", name, "[", index, "] must be contiguous float32 ", parameter.sizes(),
              ", got ", tensor.is_contiguous() ? "" : "non-contiguous ", tensor.scalar_type(), " ",
              tensor.sizes());
}

void adam_step(at::TensorList params, at::TensorList grads, at::TensorList exp_avgs,
               at::TensorList exp_avg_sqs, at::ArrayRef<double> lrs, int64_t step, double beta1,
               double beta2, double eps) {
  const size_t count = params.size();
  TORCH_CHECK(grads.size() == count && exp_avgs.size() == count && exp_avg_sqs.size() == count &&
                  lrs.size() == count,
              "adam_step_: params, grads, exp_avgs, exp_avg_sqs and lrs must be equally many, got ",
              count, ", ", grads.size(), ", ", exp_avgs.size(), ", ", exp_avg_sqs.size(), " and ",
              lrs.size());
  TORCH_CHECK(step >= 1, "adam_step_: step counts from 1, got ", step);
  const double correction1 = 1 - std::pow(beta1, step), correction2 = 1 - std::pow(beta2, step);
  std::vector<Part> parts;
  for (size_t i = 0; i < count; ++i) {
    check("params", params[i], params[i], i);
    check("grads", grads[i], params[i], i);
    check("exp_avgs", exp_avgs[i], params[i], i);
    check("exp_avg_sqs", exp_avg_sqs[i], params[i], i);
    const int64_t floats = params[i].numel();
    for (int64_t start = 0; start < floats; start += kPart) {
      const int64_t size = floats - start < kPart ? floats - start : kPart;
      parts.push_back(
          {{params[i].mutable_data_ptr<float>() + start, grads[i].const_data_ptr<float>() + start,
            exp_avgs[i].mutable_data_ptr<float>() + start,
            exp_avg_sqs[i].mutable_data_ptr<float>() + start, size},
           i});
    }
  }
  std::vector<AdamRate> rates(count);
  for (size_t i = 0; i < count; ++i) {
    rates[i] = {static_cast<float>(lrs[i] / correction1),
                static_cast<float>(1 / std::sqrt(correction2)),
                static_cast<float>(1 - beta1),
                static_cast<float>(beta2),
                static_cast<float>(1 - beta2),
                static_cast<float>(eps)};
  }
  over_parts(static_cast<int64_t>(parts.size()),
             [&](int64_t part) { adam(parts[part].run, rates[parts[part].tensor]); });
}

}  // namespace
}  // namespace raster

TORCH_LIBRARY_FRAGMENT(twinsplat_raster, m) {
  m.def(
      "adam_step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
      "Tensor(c!)[] exp_avg_sqs, float[] lrs, int step, float beta1, float beta2, float eps) -> "
      "()");
}

TORCH_LIBRARY_IMPL(twinsplat_raster, CPU, m) { m.impl("adam_step_", &raster::adam_step); }
