// Projection of Gaussians into cameras on the GPU, forward and backward; no torch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace raster::cuda {

// All pointers are device pointers to contiguous arrays.
struct ProjectInputs {
  int num_gaussians, num_cameras;
  const float* means;              // [M, 3]
  const float* quats;              // [M, 4] wxyz, or null with covariances
  const float* scales;             // [M, 3], or null with covariances
  const float* covariances;        // [M, 6] upper triangle in the world, or null
  const float* opacities;          // [M]
  const float* sh0;                // [M, 1, 3] with stride sh0_stride, or null: no colours
  const float* shN;                // [M, K-1, 3] with stride shN_stride, or null
  int64_t sh0_stride, shN_stride;  // floats from one Gaussian to the next
  int sh_degree;
  const float* viewmats;  // [C, 4, 4] world to camera
  const float* Ks;        // [C, 3, 3]
  int width, height;
  float near_plane, far_plane, eps2d;
  bool antialiased;
};

// Why a row was refused; its radius is the negative of this.
enum class BadInput : int { none = 0, means, quats, scales, covariances, opacities };

struct Projected {  // all [C, M, ...]
  float* means2d;
  float* conics;
  float* depths;
  float* opacities;
  float* colors;   // or null
  int32_t* radii;  // 0: not seen; negative: see BadInput
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
  float* v_shN;  // contiguous [M, K-1, 3]
  int num_rest;  // K-1
};

void project(const ProjectInputs&, const Projected&, cudaStream_t);
void project_backward(const ProjectInputs&, const ProjectGradients&, cudaStream_t);

}  // namespace raster::cuda
