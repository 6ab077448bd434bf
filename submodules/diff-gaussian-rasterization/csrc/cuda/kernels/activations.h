// Exp, sigmoid and the 3D smoothing filter on the GPU, both ways; no torch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace raster::cuda {

// All pointers are device pointers to contiguous arrays.
struct Activate {
  int64_t num_gaussians;        // M
  const float* log_scales;      // [M, 3]
  const float* opacity_logits;  // [M]
  const float* filter_3d;       // [M] standard deviation of the filter, or null
};

struct Activated {
  float* scales;     // [M, 3]
  float* opacities;  // [M]
};

struct ActivateGradients {
  const float* scales;     // upstream, [M, 3]
  const float* opacities;  // upstream, [M]
  float* log_scales;       // results, [M, 3]
  float* opacity_logits;   // [M]
};

void activate(const Activate&, const Activated&, cudaStream_t);

// Reads inputs only: what the forward gave cannot tell a scale that the filter hides.
void activate_backward(const Activate&, const ActivateGradients&, cudaStream_t);

}  // namespace raster::cuda
