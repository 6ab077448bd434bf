// The blend on the GPU: depth order, tile lists, pictures, and the way back; no torch.
//
// A section is one set of Gaussians seen by one camera; all sections share every launch. A pair is
// one splat in one tile of 16x16 pixels. Pairs lie sorted by tile, in depth order within each;
// a chunk is a run of 128 pairs of one tile, and the backward gives each chunk to one warp, which
// starts from what the forward left there.
//
// Chunk j of tile t has the number first_pair(t) / 128 + t + j: unique, and found without a scan.
// The same holds for groups of 32 pairs.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace raster::cuda {

constexpr int kTile = 16;  // pixels along a tile's side
constexpr int kTilePixels = kTile * kTile;
constexpr int kBlocks = 8;  // of 8x4 pixels in a tile; a warp works on one at a time
constexpr int kChunk = 128;
constexpr int kMaxSets = 64;
constexpr int kMoments = 8;  // sums of a pair before its colours

enum class DepthMode : int { none = 0, linear = 1, inverse = 2 };

struct BlendInputs {
  int num_gaussians, num_cameras, num_sets;  // M, C, S
  int set_ends[kMaxSets];                    // first row after each set
  int width, height, channels;               // channels without depth
  DepthMode depth;
  int capacity;                  // pairs that there is room for, a multiple of kChunk
  const float* means2d;          // [C, M, 2]
  const float* conics;           // [C, M, 3]
  const float* opacities;        // [C, M]
  const float* colors;           // [C, M, D] or [1, M, D]
  int64_t colors_camera_stride;  // floats between cameras; 0: all share
  const float* depths;           // [C, M]
  const int32_t* radii;          // [C, M]
  const float* backgrounds;      // [C, D] or null

  __host__ __device__ int tiles_x() const { return (width + kTile - 1) / kTile; }
  __host__ __device__ int tiles_y() const { return (height + kTile - 1) / kTile; }
  __host__ __device__ int tiles() const { return tiles_x() * tiles_y(); }
  __host__ __device__ int sections() const { return num_sets * num_cameras; }
  __host__ __device__ int all_tiles() const { return sections() * tiles(); }
  __host__ __device__ int rows() const { return num_gaussians * num_cameras; }
  __host__ __device__ int values() const { return channels + (depth != DepthMode::none); }
  __host__ __device__ int padded_values() const { return (values() + 3) / 4 * 4; }
  __host__ __device__ int max_chunks() const { return capacity / kChunk + all_tiles(); }
  __host__ __device__ int slot_width() const { return kMoments + padded_values(); }
};

// alpha = exp2(log_opacity - (a dx^2 + b dx dy + c dy^2)); drawn where that exponent is above
// log_opacity - threshold.
struct alignas(16) Splat {
  float x, y, a, b;
  float c, log_opacity, threshold;
  int32_t row;  // in [C, M]
};

struct Pair {
  int32_t row;   // of the splat, in [C, M]
  int32_t slot;  // where the backward leaves this pair's sums
};

struct Totals {
  int32_t splats, pairs;
  int32_t bad;  // 8 times the first row that is not finite plus its BadInput, or kNoBad
  int32_t unused;
};
constexpr int kNoBad = 0x7f7f7f7f;

// Splats as the tiles read them, by row of [C, M]; device pointers into one buffer.
struct Splats {
  Totals* totals;
  Splat* splats;          // [rows], of those that touch a tile
  float* values;          // [rows, padded_values] colours, then depth; likewise
  int32_t* counts;        // [rows] tiles that each may touch
  int32_t* slot_offsets;  // [rows] a row's slots follow one another
};

// Tile lists, and what the forward leaves for the backward; device pointers into another buffer.
struct BlendState {
  int32_t* tile_ends;    // [all_tiles] first pair after the tile's
  int32_t* tile_starts;  // [all_tiles]
  int32_t* walked;       // [all_tiles] pairs before all pixels had stopped
  Pair* pairs;           // [capacity]
  uint32_t* used;        // [capacity / 32 + all_tiles, kBlocks] one bit a pair of a group
  int32_t* chunk_tiles;  // [max_chunks] or -1
  float* chunks;         // [max_chunks, padded_values + 1, kTilePixels] state before a chunk:
                         // values, then transmittance, 0 once stopped; of chunk 0: the end
};

int64_t splats_bytes(const BlendInputs&);
Splats splats_view(const BlendInputs&, void* buffer);
int64_t state_bytes(const BlendInputs&, bool keep_chunks);
BlendState state_view(const BlendInputs&, bool keep_chunks, void* buffer);

// Memory that one call needs and nobody later.
struct ListScratch {
  int32_t* order;       // [2, rows]
  int32_t* offsets;     // [rows] first pair of each splat, by rank in depth
  uint32_t* tile_keys;  // [2, capacity]
  int32_t* emitted;     // [2, capacity]
  Pair* pairs;          // [capacity] as emitted: by depth, then by tile
  void* temporary;
  size_t temporary_bytes;
};

// 1. Splats and the tiles of each, keys of their depths [2, rows], totals; needs no capacity.
// Without keys splats alone are made, for lists that exist: a row that draws nothing gets a splat
// as well.
void pack(const BlendInputs&, const Splats&, uint32_t* depth_keys, cudaStream_t);
// 2. Depth order, pairs, tile lists; the totals go to out_counts.
int64_t list_scratch_bytes(const BlendInputs&);
ListScratch list_scratch(const BlendInputs&, void* buffer);
void make_lists(const BlendInputs&, const Splats&, const BlendState&, const ListScratch&,
                uint32_t* depth_keys, int32_t* out_counts, cudaStream_t);

struct BlendOutputs {
  float* color;  // [sections, H, W, D]
  float* alpha;  // [sections, H, W]
  float* depth;  // same, or null
};

// 3. Pictures; chunk states are kept if `state.chunks` is not null.
void blend(const BlendInputs&, const Splats&, const BlendState&, const BlendOutputs&, cudaStream_t);

struct BlendGradients {
  const float* color;  // upstream
  const float* alpha;  // or null
  const float* depth;  // or null
  bool geometry, absolute;
  float* slots;      // scratch [capacity, slot_width]
  float* v_means2d;  // results [C, M, ...]
  float* v_conics;
  float* v_opacities;
  float* v_colors;  // [C, M, D]
  float* v_depths;  // or null
  float* v_absolute;
};

constexpr int kMaxChannels = 200;

void blend_backward(const BlendInputs&, const Splats&, const BlendState&, const BlendGradients&,
                    cudaStream_t);

}  // namespace raster::cuda
