// L1 and SSIM with their gradient by blocks of rows; no torch, and no threads of its own.
#pragma once

#include <cstdint>

namespace raster {

// Images are [num_images, height, width, 3], weights [num_images, height, width].
struct Photometric {
  int64_t num_images, height, width;
  const float* color;
  const float* target;           // in [0, 1], or null with target_bytes
  const uint8_t* target_bytes;   // divided by 255 on reading, or null
  const float* gradient_weight;  // multiplies the gradient of each pixel, or null
  const float* value_weight;     // multiplies the error of each pixel, or null
  bool composite;                // compare with color + gradient_weight (target - color) instead
  float lambda_dssim;
  float* gradient;  // of the loss by `color`, or null
  float* map;       // [num_images, height, width] mean SSIM of the channels, or null
  double* errors;   // [photometric_blocks()] sums of the weighted error

  int64_t values() const { return num_images * height * width * 3; }
};

// The partition depends on the image size only, so that no result depends on the threads.
int64_t photometric_blocks(const Photometric& task);

// Floats of scratch memory that one call of photometric_block needs.
int64_t photometric_scratch(const Photometric& task);

// The part of the loss whose gradient lands in one block of rows. Blocks are independent.
void photometric_block(const Photometric& task, int64_t block, float* scratch);

}  // namespace raster
