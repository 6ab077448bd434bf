// Mean absolute difference on the GPU; no torch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace raster::cuda {

// All pointers are device pointers to contiguous arrays.
struct Difference {
  int64_t count;
  const float *a, *b;  // [count]
};

int difference_blocks(const Difference&);

// The mean to `value` [1]; `errors` [difference_blocks()] is scratch.
void difference(const Difference&, double* errors, float* value, cudaStream_t);

// v_value [1] times the slopes of the mean to v_a and v_b [count], either of which may be null.
void difference_backward(const Difference&, const float* v_value, float* v_a, float* v_b,
                         cudaStream_t);

}  // namespace raster::cuda
