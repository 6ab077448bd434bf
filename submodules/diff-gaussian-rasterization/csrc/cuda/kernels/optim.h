// Adam over many tensors in one launch; no torch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace raster::cuda {

constexpr int kMaxAdamTensors = 16;  // of one launch

// Device pointers to contiguous floats.
struct AdamTensor {
  float* parameter;
  const float* gradient;
  float* mean;                  // running mean of the gradient
  float* square;                // running mean of its square
  float* average;               // running average of the parameter, or null
  int64_t count;                // floats
  uint32_t row;                 // floats per row; read with AdamStep::visible only
  float step_size, root_scale;  // as in cpu/adam.h; read without AdamStep::rates only
};

struct AdamStep {
  AdamTensor tensors[kMaxAdamTensors];
  int num_tensors;
  const float* rates;  // [num_tensors, 2] step_size and root_scale on the device, or null
  float to_mean, beta2, to_square, eps, decay, to_average;
  const int32_t* visible;  // rows with a positive entry are updated; null = all
  const int32_t* frozen;   // nothing is written where it is not 0; or null
};

void adam_step(const AdamStep&, cudaStream_t);

}  // namespace raster::cuda
