// L1 and SSIM with their gradient on the GPU; no torch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace raster::cuda {

constexpr int kMostPhotometric = 16;  // pictures of one call

// Pictures of the same photos: images are [num_photos, height, width, 3], weights [num_photos,
// height, width]; all pointers are device pointers to contiguous arrays.
struct Photometric {
  int num_pictures, num_photos, height, width;
  const float* colors[kMostPhotometric];
  const float* gradient_weights[kMostPhotometric];  // multiply the gradient of each pixel, or null
  const float* value_weights[kMostPhotometric];     // multiply the error of each pixel, or null
  const float* target;                              // in [0, 1], or null with target_bytes
  const uint8_t* target_bytes;                      // divided by 255 on reading, or null
  bool composite;  // compare with color + gradient_weight (target - color) instead
  float lambda_dssim;
  double* errors;   // [photometric_blocks()] scratch
  float* slopes;    // [3, num_pictures, num_values()] scratch, or null without gradient
  float* values;    // [num_pictures]
  float* gradient;  // [num_pictures, num_values()] of each value by its picture, or null

  __host__ __device__ int floats() const { return 3 * width; }  // of a row
  __host__ __device__ int num_images() const { return num_pictures * num_photos; }
  // Of a picture.
  __host__ __device__ int64_t num_values() const { return int64_t(num_photos) * height * floats(); }
};

// How many blocks of threads share the images depends on their sizes and on the GPU.
int photometric_blocks(const Photometric&);

// Fills `values`, and `gradient` where it is wanted.
void photometric(const Photometric&, cudaStream_t);

// SSIM of each pixel of one picture, mean over the channels, to map [num_photos, height, width];
// reads the images only.
void ssim_map(const Photometric&, float* map, cudaStream_t);

}  // namespace raster::cuda
