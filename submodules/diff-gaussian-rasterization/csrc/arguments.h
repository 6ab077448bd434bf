// What the rasterizer's operators are given, checked and made contiguous; the same on every device.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace raster {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr int64_t kAny = -1;

// Dtype, shape and device of an argument; kAny leaves a dimension free.
void check(const char* op, const char* name, const Tensor& t, std::initializer_list<int64_t> shape,
           at::Device device, at::ScalarType dtype = at::kFloat);

inline const float* data(const OptionalTensor& t) {
  return t ? t->const_data_ptr<float>() : nullptr;
}

inline OptionalTensor contiguous(const OptionalTensor& t) {
  return t ? OptionalTensor(t->contiguous()) : t;
}

struct ProjectTensors {
  Tensor means, opacities, viewmats, Ks;
  OptionalTensor quats, scales, covariances;
  OptionalTensor sh0, shN;  // a Gaussian's coefficients are contiguous, the rows need not be

  int64_t num_gaussians() const { return means.size(0); }
  int64_t num_cameras() const { return viewmats.size(0); }
  int64_t sh0_stride() const { return sh0 ? sh0->stride(0) : 0; }
  int64_t shN_stride() const { return shN ? shN->stride(0) : 0; }
  int64_t num_rest() const { return shN ? shN->size(1) : 0; }
};

ProjectTensors project_tensors(const char* op, const Tensor& means, const OptionalTensor& quats,
                               const OptionalTensor& scales, const OptionalTensor& covariances,
                               const Tensor& opacities, const OptionalTensor& sh0,
                               const OptionalTensor& shN, const Tensor& viewmats, const Tensor& Ks,
                               int64_t width, int64_t height, int64_t sh_degree, double near_plane,
                               double far_plane, double eps2d);

// What comes back from the blend, and what the projection gave; contiguous.
struct ProjectUpstream {
  Tensor means2d, conics, opacities, colors, projected_colors, projected_conics, radii;
  OptionalTensor depths;
};

ProjectUpstream project_upstream(const char* op, const ProjectTensors& in, const Tensor& v_means2d,
                                 const Tensor& v_conics, const OptionalTensor& v_depths,
                                 const Tensor& v_opacities, const Tensor& v_colors,
                                 const Tensor& conics, const Tensor& colors, const Tensor& radii,
                                 bool geometry_grad);

struct BlendTensors {
  Tensor means2d, conics, opacities, colors, depths, radii;
  OptionalTensor backgrounds;

  int64_t num_cameras() const { return means2d.size(0); }
  int64_t num_gaussians() const { return means2d.size(1); }
  int64_t channels() const { return colors.size(2); }
  int64_t colors_camera_stride() const {
    return colors.size(0) == 1 ? 0 : num_gaussians() * channels();
  }
};

BlendTensors blend_tensors(const char* op, const Tensor& means2d, const Tensor& conics,
                           const Tensor& opacities, const Tensor& colors, const Tensor& depths,
                           const Tensor& radii, const OptionalTensor& backgrounds,
                           at::IntArrayRef set_sizes, int64_t width, int64_t height,
                           int64_t depth_mode);

}  // namespace raster
