// One Adam update of a run of floats; no torch, and no threads of its own.
#pragma once

#include <cstdint>

namespace raster {

struct Adam {
  float* parameter;
  const float* gradient;
  float* mean;             // running mean of the gradient
  float* square;           // running mean of its square
  float* average;          // running average of the parameter, or null
  const int32_t* visible;  // rows with a positive entry are updated; null = all
  int64_t row;             // floats per row
};

// Both corrections of the start-up bias are inside: step_size = lr / (1 - beta1^step), and the
// denominator is sqrt(square) * root_scale + eps with root_scale = 1 / sqrt(1 - beta2^step).
// to_mean = 1 - beta1, to_square = 1 - beta2 and to_average = 1 - decay are rounded once, from the
// exact difference.
struct AdamRate {
  float step_size, root_scale, to_mean, beta2, to_square, eps, decay, to_average;
};

// Floats [begin, end) of the tensors. The average moves after the update, in every row.
void adam(const Adam& task, const AdamRate& rate, int64_t begin, int64_t end);

}  // namespace raster
