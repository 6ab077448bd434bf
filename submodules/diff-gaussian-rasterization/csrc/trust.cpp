// Torch's side of the learnt trust: schema and checks. There are kernels for GPUs only; elsewhere
// the caller has torch's own operators.
#include "trust.h"

#include <torch/library.h>

#include "frozen.h"

namespace raster {
namespace {

void check(const char* op, const char* name, const at::Tensor& tensor, at::ScalarType type,
           at::IntArrayRef sizes, const at::Tensor& like) {
  TORCH_CHECK(
      tensor.scalar_type() == type && tensor.sizes() == sizes && tensor.device() == like.device(),
      op, ": ", name, " must be ", type, " ", sizes, " on ", like.device(), ", got ",
      tensor.scalar_type(), " ", tensor.sizes(), " on ", tensor.device());
}

void check_bank(const char* name, const at::Tensor& tensor, const at::Tensor& logits) {
  check("trust_step_", name, tensor, at::kFloat, logits.sizes(), logits);
  TORCH_CHECK(tensor.is_contiguous(), "trust_step_: ", name, " must be contiguous, got strides ",
              tensor.strides());
}

}  // namespace

TrustTensors trust_tensors(const at::Tensor& logits, const at::Tensor& residual,
                           const at::Tensor& low, const at::Tensor& span) {
  constexpr const char* kOp = "trust_loss";
  TORCH_CHECK(logits.dim() == 3 && logits.numel() > 0, kOp,
              ": logits must be float32 [C, H, W], got ", logits.sizes());
  check(kOp, "logits", logits, at::kFloat, logits.sizes(), logits);
  check(kOp, "residual", residual, at::kFloat, logits.sizes(), logits);
  check(kOp, "low", low, at::kFloat, {logits.size(0)}, logits);
  check(kOp, "span", span, at::kFloat, {logits.size(0)}, logits);
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
  check(kOp, "num_updates", num_updates, at::kLong, {logits.size(0)}, logits);
  TORCH_CHECK(num_updates.is_contiguous(), kOp, ": num_updates must be contiguous");
  TORCH_CHECK(rows.dim() == 1 && rows.numel() > 0, kOp, ": rows must be int64 [C], got ",
              rows.sizes());
  check(kOp, "rows", rows, at::kLong, rows.sizes(), logits);
  check(kOp, "gradient", gradient, at::kFloat, {rows.size(0), logits.size(1), logits.size(2)},
        logits);
  TORCH_CHECK(rates.dim() == 2 && rates.size(0) > 0, kOp, ": rates must be float32 [U, 2], got ",
              rates.sizes());
  check(kOp, "rates", rates, at::kFloat, {rates.size(0), 2}, logits);
  check_frozen(kOp, frozen, logits.device());
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
