// One Adam update of a run of floats; no torch, and no threads of its own.
#pragma once

#include <cstdint>

namespace raster {

struct Adam {
  float* parameter;
  const float* gradient;
  float* mean;    // running mean of the gradient
  float* square;  // running mean of its square
  int64_t count;
};

// Both corrections of the start-up bias are inside: step_size = lr / (1 - beta1^step), and the
// denominator is sqrt(square) * root_scale + eps with root_scale = 1 / sqrt(1 - beta2^step).
// to_mean = 1 - beta1 and to_square = 1 - beta2 are rounded once, from the exact difference.
struct AdamRate {
  float step_size, root_scale, to_mean, beta2, to_square, eps;
};

void adam(const Adam& run, const AdamRate& rate);

}  // namespace raster
