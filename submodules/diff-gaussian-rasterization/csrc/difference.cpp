// The mean absolute difference: schema, checks, and torch's own operators on the CPU.
#include "difference.h"

#include <ATen/ops/abs.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/neg.h>
#include <ATen/ops/sign.h>
#include <ATen/ops/sub.h>
#include <torch/library.h>

#include <tuple>

namespace raster {
namespace {

at::Tensor mean_difference(const at::Tensor& a, const at::Tensor& b) {
  const auto [first, second] = difference_tensors(a, b);
  return first.sub(second).abs_().mean();
}

std::tuple<at::Tensor, at::Tensor> mean_difference_backward(const at::Tensor& v_value,
                                                            const at::Tensor& a,
                                                            const at::Tensor& b, bool wants_b) {
  const auto [first, second] = difference_tensors(a, b);
  check_v_value(v_value, a);
  const at::Tensor scale = v_value.mul(1.0 / static_cast<double>(a.numel()));
  at::Tensor v_a = first.sub(second).sign_().mul_(scale);
  at::Tensor v_b = wants_b ? v_a.neg() : v_a.new_empty({0});
  return {v_a, v_b};
}

}  // namespace

std::pair<at::Tensor, at::Tensor> difference_tensors(const at::Tensor& a, const at::Tensor& b) {
  TORCH_CHECK(a.scalar_type() == at::kFloat && a.numel() > 0 && b.scalar_type() == at::kFloat &&
                  b.sizes() == a.sizes() && b.device() == a.device(),
              "mean_difference: both must be float32 of one size and device, not empty, got ",
              a.scalar_type(), " ", a.sizes(), " on ", a.device(), " and ", b.scalar_type(), " ",
              b.sizes(), " on ", b.device());
  return {a.contiguous(), b.contiguous()};
}

void check_v_value(const at::Tensor& v_value, const at::Tensor& a) {
  TORCH_CHECK(
      v_value.scalar_type() == at::kFloat && v_value.numel() == 1 && v_value.device() == a.device(),
      "mean_difference: v_value must be one float32 on ", a.device(), ", got ",
      v_value.scalar_type(), " ", v_value.sizes(), " on ", v_value.device());
}

}  // namespace raster

TORCH_LIBRARY_FRAGMENT(twinsplat_raster, m) {
  m.def("mean_difference(Tensor a, Tensor b) -> Tensor");
  m.def(
      "mean_difference_backward(Tensor v_value, Tensor a, Tensor b, bool wants_b) -> (Tensor v_a, "
      "Tensor v_b)");
}

TORCH_LIBRARY_IMPL(twinsplat_raster, CPU, m) {
  m.impl("mean_difference", &raster::mean_difference);
  m.impl("mean_difference_backward", &raster::mean_difference_backward);
}
