// Which segments of photos a rendering contradicts, on the GPU; no torch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace raster::cuda {

// All pointers are device pointers to contiguous arrays.
struct SegmentTask {
  int num_photos;                                  // C
  int num_pixels;                                  // P, of each
  int num_entries;                                 // K
  int num_segments;                                // S, of which the last has no entries
  const float *by_color, *by_feature;              // [C, P]
  const float *high_color, *high_feature, *usual;  // [C]
  const int64_t* rows;                             // [C], of the tables
  const int32_t *pixels, *segments;                // [V, K], mostly segment by segment
  const double* areas;                             // [V, S] in units of 1 / kSegmentUnit
  double least_feature, most_distrust;
  float span;
  int64_t* sums;  // [segment_sums()] scratch
  float* trust;   // [C, P]
};

constexpr int kSegmentUnit = 1 << 20;  // integers per unit of a sum

int64_t segment_sums(const SegmentTask&);

void segment_trust(const SegmentTask&, cudaStream_t);

}  // namespace raster::cuda
