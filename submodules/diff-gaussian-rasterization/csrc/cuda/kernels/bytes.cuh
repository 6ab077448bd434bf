// Photos of 8 bits as fractions.
#pragma once

#include <cstdint>

namespace raster::cuda {

// byte / 255, to the last bit for every byte.
__device__ inline float fraction(uint8_t byte) {
  constexpr float kInverse = 1.0f / 255.0f;
  const float near = byte * kInverse;
  return __fmaf_rn(__fmaf_rn(-255.0f, near, byte), kInverse, near);
}

}  // namespace raster::cuda
