// Selection by rank on the GPU; no torch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace raster::cuda {

constexpr int kSelectBins = 2048;
constexpr int kSelectPasses = 3;

// What the passes over one row leave for each other; 0 at the start.
struct SelectRow {
  uint32_t histograms[kSelectPasses][kSelectBins];
  uint32_t tickets[kSelectPasses];  // blocks that are through with a pass
  uint32_t key;                     // the digits that are known, of the value sought
  uint32_t rank;                    // from 0, among the values that have these digits
};

constexpr int kMostSources = 32;

struct Select {
  int num_sources, num_rows, num_columns;
  const float* values[kMostSources];  // each [num_rows, num_columns]
  int ranks[kMostSources];            // of each, from 0
  SelectRow* rows;                    // [num_sources, num_rows] scratch
  float* results;                     // [num_sources, num_rows]
};

// Clears the scratch, too.
void select(const Select&, cudaStream_t);

}  // namespace raster::cuda
