// What the CPU kernels take and give: plain structs of pointers and sizes, no torch.
#pragma once

#include <cstdint>

namespace raster {

constexpr int kTile = 16;  // pixels along a tile's side
constexpr int kTilePixels = kTile * kTile;
constexpr float kMinAlpha = 1.0f / 255.0f;  // fainter contributions are skipped
constexpr float kMaxAlpha = 0.99f;          // keeps the transmittance behind a splat positive
constexpr float kMinTransmittance = 1e-4f;  // a pixel stops before it would get darker than this

// A pinhole camera; rotation and translation take world to camera.
struct Camera {
  float rotation[9];
  float translation[3];
  float position[3];  // camera centre in the world
  float fx, fy, cx, cy;
  float min_u, max_u, min_v, max_v;  // clamp of x/z and y/z inside the Jacobian
};

struct ProjectInputs {
  int64_t num_gaussians, num_cameras;
  const float* means;              // [M, 3]
  const float* quats;              // [M, 4] wxyz, or null with covariances
  const float* scales;             // [M, 3], or null with covariances
  const float* covariances;        // [M, 6] upper triangle in the world, or null
  const float* opacities;          // [M]
  const float* sh0;                // [M, 1, 3] with stride sh0_stride, or null: no colours
  const float* shN;                // [M, K-1, 3] with stride shN_stride, or null
  int64_t sh0_stride, shN_stride;  // floats from one Gaussian to the next
  int sh_degree;
  const Camera* cameras;  // [C]
  int width, height;
  float near_plane, far_plane, eps2d;
  bool antialiased;
};

struct Projected {  // all [C, M, ...]
  float* means2d;
  float* conics;
  float* depths;
  float* opacities;
  float* colors;  // or null
  int32_t* radii;
};

struct ProjectGradients {
  const float* means2d;  // upstream, [C, M, ...]
  const float* conics;
  const float* depths;
  const float* opacities;
  const float* colors;            // upstream, or null
  const float* projected_colors;  // what the forward gave, to find the clamped ones
  const float* projected_conics;
  const int32_t* radii;
  bool geometry;   // false: only v_sh0 and v_shN are written
  float* v_means;  // results, [M, ...]
  float* v_quats;
  float* v_scales;
  float* v_covariances;
  float* v_opacities;
  float* v_sh0;
  float* v_shN;      // contiguous [M, K-1, 3]
  int64_t num_rest;  // K-1
};

// A splat as the blend reads it, in depth order. alpha = exp2(log_opacity - (a dx^2 + b dx dy + c
// dy^2)).
struct alignas(32) Splat {
  float x, y, a, b, c, log_opacity, threshold;
  int32_t gaussian;  // row in the section's set
};

// A visible row and its depth as an unsigned number of the same order.
struct Key {
  uint32_t depth;
  int32_t row;
};

struct Pair {
  int32_t rank;  // index of the splat in the section's depth order
  int32_t slot;  // where the backward leaves this pair's sums
};

// One set seen by one camera.
struct Section {
  int64_t first_row;  // of the set, in [M]
  int64_t num_rows;
  int64_t camera;
  int64_t first_splat, num_splats;
  int64_t first_pair, num_pairs;
};

enum class DepthMode : int { none = 0, linear = 1, inverse = 2 };

struct BlendInputs {
  int64_t num_gaussians;  // M
  int64_t num_sections;
  int width, height, channels;  // channels without depth
  DepthMode depth;
  const float* means2d;          // [C, M, 2]
  const float* conics;           // [C, M, 3]
  const float* opacities;        // [C, M]
  const float* colors;           // [C, M, D] or [1, M, D]
  int64_t colors_camera_stride;  // floats between cameras; 0: all share
  const float* depths;           // [C, M]
  const int32_t* radii;          // [C, M]
  const float* backgrounds;      // [C, D] or null
  int tiles_x() const { return (width + kTile - 1) / kTile; }
  int tiles_y() const { return (height + kTile - 1) / kTile; }
  int64_t tiles() const { return int64_t(tiles_x()) * tiles_y(); }
  int values() const { return channels + (depth != DepthMode::none); }
  int padded_values() const { return (values() + 3) / 4 * 4; }
};

// What the forward leaves for the backward; all pointers into one buffer.
struct BlendState {
  const Section* sections;  // [num_sections]
  Splat* splats;            // [V]
  float* values;            // [V, padded_values]: colours, then depth
  int64_t* tile_offsets;    // [num_sections, tiles + 1], absolute into pairs
  int64_t* slot_offsets;    // [V + 1], absolute into slots
  Pair* pairs;              // [P]
  uint64_t* masks;          // [P] blocks in which a pixel took the splat
  float* transmittance;     // [num_sections, tiles, 256] in block order
  int32_t* last;            // same: pairs walked up to the last one taken
};

struct BlendOutputs {
  float* color;  // [sections, H, W, D]
  float* alpha;  // [sections, H, W]
  float* depth;  // same, or null
};

struct BlendGradients {
  const float* color;  // upstream
  const float* alpha;  // or null
  const float* depth;  // or null
  bool geometry, absolute;
  float* slots;  // [P, slot_width]
  int slot_width;
  float* v_means2d;  // results [C, M, ...]
  float* v_conics;
  float* v_opacities;
  float* v_colors;  // [C, M, D]
  float* v_depths;
  float* v_absolute;  // [C, M, 2] or null
};

// Sums of a pair, in the order of its slot: moments of dL/dq, absolute sums, then the values.
enum SlotField : int { kSum = 0, kSumX, kSumY, kSumXX, kSumXY, kSumYY, kAbsX, kAbsY, kValues };

// One table per instruction set. Every function works on a part, so that the caller owns threads.
struct Kernels {
  const char* name;
  // Gaussians [begin, end); the index of the first one that is not finite, or -1.
  int64_t (*project)(const ProjectInputs&, const Projected&, int64_t begin, int64_t end);
  void (*project_backward)(const ProjectInputs&, const ProjectGradients&, int64_t begin,
                           int64_t end);
  // Splats of keys [begin, end) and their tiles, appended to `tiles` while one more splat is sure
  // to fit; returns the first key that is left. `base` is the row of the set's first Gaussian.
  int64_t (*bin)(const BlendInputs&, int64_t base, const Key* keys, int64_t begin, int64_t end,
                 Splat* splats, int32_t* lengths, int32_t* histogram, int32_t* tiles,
                 int64_t capacity, int64_t* used);
  Splat (*pack)(const BlendInputs&, int64_t row, int32_t gaussian);
  int64_t (*scratch_bytes)(const BlendInputs&);
  void (*blend_tile)(const BlendInputs&, const BlendState&, const BlendOutputs&, int64_t section,
                     int64_t tile, void* scratch);
  void (*blend_tile_backward)(const BlendInputs&, const BlendState&, const BlendGradients&,
                              int64_t section, int64_t tile, void* scratch);
};

const Kernels& kernels();  // the best that this machine runs, or TWINSPLAT_ISA

// The drivers: threads over parts, the same result for any number of them.
int64_t project(const ProjectInputs&, const Projected&, int threads);
void project_backward(const ProjectInputs&, const ProjectGradients&, int threads);

// Makes depth order and tile lists in workspaces of the process, blends, and keeps the state in
// memory that `allocate` gives.
using Allocate = void* (*)(void* context, int64_t bytes);
void blend(const BlendInputs&, const int64_t* set_sizes, int64_t num_sets, int64_t num_cameras,
           const BlendOutputs&, Allocate allocate, void* context, int threads);
void blend_backward(const BlendInputs&, void* state, const BlendGradients&, int threads);
// The same picture from other splats in the order and the tiles of a blend of equal sizes, whose
// state is `lists`.
void blend_shared(const BlendInputs&, const void* lists, int64_t bytes, const BlendOutputs&,
                  int threads);
int slot_width(const BlendInputs&);

}  // namespace raster
