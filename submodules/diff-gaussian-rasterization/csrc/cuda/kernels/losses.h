// L1 and SSIM with their gradient on the GPU; no torch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace raster::cuda {

// Images are [num_images, height, width, 3], weights [num_images, height, width]; all pointers are
// device pointers to contiguous arrays.
struct Photometric {
  int num_images, height, width;
  const float* color;
  const float* target;           // in [0, 1], or null with target_bytes
  const uint8_t* target_bytes;   // divided by 255 on reading, or null
  const float* gradient_weight;  // multiplies the gradient of each pixel, or null
  const float* value_weight;     // multiplies the error of each pixel, or null
  bool composite;                // compare with color + gradient_weight (target - color) instead
  float lambda_dssim;
  double* errors;   // [photometric_blocks()] scratch
  float* slopes;    // [3, num_values()] scratch, or null without gradient
  float* value;     // [1]
  float* gradient;  // of the value by `color`, or null

  __host__ __device__ int floats() const { return 3 * width; }  // of a row
  __host__ __device__ int64_t num_values() const { return int64_t(num_images) * height * floats(); }
};

// How many blocks of threads share the images depends on their sizes and on the GPU.
int photometric_blocks(const Photometric&);

// Fills `value`, and `gradient` where it is wanted.
void photometric(const Photometric&, cudaStream_t);

// SSIM of each pixel, mean over the channels, to map [num_images, height, width]; reads the images
// only.
void ssim_map(const Photometric&, float* map, cudaStream_t);

}  // namespace raster::cuda
