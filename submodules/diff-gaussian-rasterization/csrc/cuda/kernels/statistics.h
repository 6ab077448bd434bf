// What a training step notes down, on the GPU; no torch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace raster::cuda {

// All pointers are device pointers to contiguous arrays.
struct Observe {
  int64_t num_gaussians;   // M
  float* grad_sum;         // [M] sums over the views that saw a Gaussian
  float* absgrad_sum;      // [M], or null
  float* count;            // [M] how many views that were
  const float* v_means2d;  // [M, 2] gradient by the projected centre, per pixel
  const float* v_absgrad;  // [M, 2] its absolute twin, or null
  const int32_t* radii;    // [M] positive where this view sees a Gaussian
  float half_width, half_height;
  const int32_t* frozen;  // nothing is written where it is not 0; or null
};

void observe(const Observe&, cudaStream_t);

// guard: most pairs, first bad row or -1, steps done, steps whose loss was not finite. counts:
// visible splats, pairs, first bad row or -1.
void watch(int32_t* guard, const int32_t* counts, int64_t capacity, int32_t* frozen, cudaStream_t);

void count_step(int32_t* guard, int32_t* frozen, const float* loss, cudaStream_t);

}  // namespace raster::cuda
