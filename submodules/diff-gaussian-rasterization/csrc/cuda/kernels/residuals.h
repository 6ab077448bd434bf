// How far pictures are from photos, by colour and by patch, on the GPU; no torch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace raster::cuda {

constexpr int kMostPictures = 16;

// All pointers are device pointers to contiguous arrays; images are [num_photos, height, width, 3].
struct Pictures {
  int num_pictures;  // each of all photos
  int num_photos, height, width;
  const float* pictures[kMostPictures];
  const float* photos;         // in [0, 1], or null with photo_bytes
  const uint8_t* photo_bytes;  // divided by 255 on reading, or null

  __host__ __device__ int64_t num_pixels() const { return int64_t(num_photos) * height * width; }
};

// Separable filters of a grid of patches. Patch p of n along a side has its waves in rows p count
// to (p + 1) count; they reach no more than a pixel beyond its n-th part of the side.
struct Patches {
  int num_down, num_across;      // patches
  int count_down, count_across;  // waves of a patch along each side
  const float* down;             // [num_down * count_down, height]
  const float* across;           // [num_across * count_across, width]
  const float* axes;             // [3, 3], from RGB to the axes compared
  const float* grey;             // [3, count_down, count_across], subtracted
  float floor;                   // the constant last feature
};

// Mean absolute difference over the channels, to residual [num_pictures, num_photos, height,
// width].
void color_residual(const Pictures&, float* residual, cudaStream_t);

// Shared memory of a block, in bytes; at most kMostSharedBytes can be had.
size_t patch_residual_bytes(const Pictures&, const Patches&);
constexpr size_t kMostSharedBytes = 48 * 1024;

// One minus the cosine between the features of each patch, in [0, 2], to residual [num_pictures,
// num_photos, num_down, num_across].
void patch_residual(const Pictures&, const Patches&, float* residual, cudaStream_t);

}  // namespace raster::cuda
