// Exp, sigmoid and the 3D smoothing filter, both ways; no torch, and no threads of its own.
#pragma once

#include <cstdint>

namespace raster {

struct Activate {
  const float* log_scales;      // [M, 3]
  const float* opacity_logits;  // [M]
  const float* filter_3d;       // [M] standard deviation of the filter, or null
  float* scales;                // results, [M, 3]
  float* opacities;             // [M]
};

struct ActivateGradients {
  const float* scales;     // upstream, [M, 3], or null
  const float* opacities;  // upstream, [M], or null
  float* log_scales;       // results, [M, 3]
  float* opacity_logits;   // [M]
};

void activate(const Activate& task, int64_t begin, int64_t end);

// Reads the inputs of `task` only: what the forward gave cannot tell a scale that the filter hides.
void activate_backward(const Activate& task, const ActivateGradients& gradients, int64_t begin,
                       int64_t end);

}  // namespace raster
