// Torch's side of the learnt trust: schema and checks. There are kernels for GPUs only; elsewhere
// the caller has torch's own operators.
#include "trust.h"

#include <torch/library.h>

#include "arguments.h"
#include "frozen.h"

namespace raster {
namespace {

void check_bank(const char* name, const at::Tensor& tensor, const at::Tensor& logits) {
  check("trust_step_", name, tensor, {logits.size(0), logits.size(1), logits.size(2)},
        logits.device());
  TORCH_CHECK(tensor.is_contiguous(), "trust_step_: ", name, " must be contiguous, got strides ",
              tensor.strides());
}

}  // namespace

TrustTensors trust_tensors(const at::Tensor& logits, const at::Tensor& residual,
                           const at::Tensor& low, const at::Tensor& span) {
  constexpr const char* kOp = "trust_loss";
  TORCH_CHECK(logits.dim() == 3 && logits.numel() > 0, kOp,
              ": logits must be float32 [C, H, W], got ", logits.sizes());
  const int64_t C = logits.size(0), H = logits.size(1), W = logits.size(2);
  const at::Device device = logits.device();
  check(kOp, "logits", logits, {C, H, W}, device);
  check(kOp, "residual", residual, {C, H, W}, device);
  check(kOp, "low", low, {C}, device);
  check(kOp, "span", span, {C}, device);
  return {logits.contiguous(), residual.contiguous(), low.contiguous(), span.contiguous()};
}

TrustStepTensors trust_step_tensors(const at::Tensor& logits, const at::Tensor& exp_avg,
                                    const at::Tensor& exp_avg_sq, const at::Tensor& num_updates,
                                    const at::Tensor& rows, const at::Tensor& gradient,
                                    const at::Tensor& rates,
                                    const std::optional<at::Tensor>& frozen) {
  constexpr const char* kOp = "trust_step_";
  TORCH_CHECK(logits.dim() == 3 && logits.numel() > 0, kOp,
              ": logits must be float32 [V, H, W], got ", logits.sizes());
  check_bank("logits", logits, logits);
  check_bank("exp_avg", exp_avg, logits);
  check_bank("exp_avg_sq", exp_avg_sq, logits);
  const at::Device device = logits.device();
  check(kOp, "num_updates", num_updates, {logits.size(0)}, device, at::kLong);
  TORCH_CHECK(num_updates.is_contiguous(), kOp, ": num_updates must be contiguous");
  check(kOp, "rows", rows, {kAny}, device, at::kLong);
  TORCH_CHECK(rows.numel() > 0, kOp, ": rows must name at least one photo, got none");
  check(kOp, "gradient", gradient, {rows.size(0), logits.size(1), logits.size(2)}, device);
  check(kOp, "rates", rates, {kAny, 2}, device);
  TORCH_CHECK(rates.size(0) > 0, kOp, ": rates must have at least one row, got none");
  check_frozen(kOp, frozen, device);
  return {rows.contiguous(), gradient.contiguous(), rates.contiguous()};
}

}  // namespace raster

TORCH_LIBRARY_FRAGMENT(twinsplat_raster, m) {
  m.def(
      "trust_loss(Tensor logits, Tensor residual, Tensor low, Tensor span, float sharpness) -> "
      "(Tensor value, Tensor trust, Tensor slopes)");
  m.def(
      "trust_step_(Tensor(a!) logits, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor(d!) "
      "num_updates, Tensor rows, Tensor gradient, Tensor rates, float beta1, float beta2, float "
      "eps, float most, Tensor? frozen) -> ()");
}
