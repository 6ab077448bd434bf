// One number's step of Adam, every operation written out; shared by all kernels that learn.
#pragma once

namespace raster::cuda {

struct AdamRule {
  float to_mean, beta2, to_square, eps;  // 1 - beta1, beta2, 1 - beta2
};

__device__ inline void adam_update(const AdamRule& rule, float step_size, float root_scale, float g,
                                   float& p, float& m, float& v) {
  m = __fmaf_rn(rule.to_mean, __fsub_rn(g, m), m);
  v = __fmaf_rn(__fmul_rn(rule.to_square, g), g, __fmul_rn(rule.beta2, v));
  const float root = __fmaf_rn(__fsqrt_rn(v), root_scale, rule.eps);
  p = __fsub_rn(p, __fdiv_rn(__fmul_rn(step_size, m), root));
}

}  // namespace raster::cuda
