// Growth statistics of one view; no torch, and no threads of its own.
#pragma once

#include <cstdint>

namespace raster {

struct Observe {
  float* grad_sum;         // [M] sums over the views that saw a Gaussian
  float* absgrad_sum;      // [M], or null
  float* count;            // [M] how many views that were
  const float* v_means2d;  // [M, 2] gradient by the projected centre, per pixel
  const float* v_absgrad;  // [M, 2] its absolute twin, or null
  const int32_t* radii;    // [M] positive where this view sees a Gaussian
  float half_width, half_height;
};

void observe(const Observe& task, int64_t begin, int64_t end);

}  // namespace raster
