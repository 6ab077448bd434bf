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

// What every device's kernels are told alike; each has structs of its own with fields of these
// names.
template <class Inputs>
void set_project_inputs(Inputs& in, const ProjectTensors& t, int64_t width, int64_t height,
                        int64_t sh_degree, double near_plane, double far_plane, double eps2d,
                        bool antialiased) {
  in.num_gaussians = decltype(in.num_gaussians)(t.num_gaussians());
  in.num_cameras = decltype(in.num_cameras)(t.num_cameras());
  in.means = t.means.const_data_ptr<float>();
  in.quats = data(t.quats);
  in.scales = data(t.scales);
  in.covariances = data(t.covariances);
  in.opacities = t.opacities.const_data_ptr<float>();
  in.sh0 = data(t.sh0);
  in.shN = data(t.shN);
  in.sh0_stride = t.sh0_stride();
  in.shN_stride = t.shN_stride();
  in.sh_degree = int(sh_degree);
  in.width = int(width), in.height = int(height);
  in.near_plane = float(near_plane), in.far_plane = float(far_plane), in.eps2d = float(eps2d);
  in.antialiased = antialiased;
}

// Gradients of the projection's arguments; empty where they are not wanted.
struct ProjectResults {
  Tensor v_means, v_quats, v_scales, v_covariances, v_opacities, v_sh0, v_shN;

  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> all() const {
    return {v_means, v_quats, v_scales, v_covariances, v_opacities, v_sh0, v_shN};
  }
};

// `make(shape)` gives memory on the device.
template <class Make>
ProjectResults project_results(const ProjectTensors& t, bool geometry_grad, const Make& make) {
  const int64_t M = t.num_gaussians();
  const auto if_wanted = [&](bool wanted, at::IntArrayRef shape) {
    return wanted ? make(shape) : make({0});
  };
  const bool g = geometry_grad, turned = g && t.quats, given = g && t.covariances;
  return {if_wanted(g, {M, 3}),
          if_wanted(turned, {M, 4}),
          if_wanted(turned, {M, 3}),
          if_wanted(given, {M, 6}),
          if_wanted(g, {M}),
          if_wanted(bool(t.sh0), {M, 1, 3}),
          if_wanted(bool(t.shN), {M, t.num_rest(), 3})};
}

template <class Gradients>
void set_project_gradients(Gradients& grads, const ProjectTensors& t, const ProjectUpstream& up,
                           const ProjectResults& results, bool geometry_grad) {
  grads.means2d = up.means2d.const_data_ptr<float>();
  grads.conics = up.conics.const_data_ptr<float>();
  grads.depths = data(up.depths);
  grads.opacities = up.opacities.const_data_ptr<float>();
  grads.colors = up.colors.const_data_ptr<float>();
  grads.projected_colors = up.projected_colors.const_data_ptr<float>();
  grads.projected_conics = up.projected_conics.const_data_ptr<float>();
  grads.radii = up.radii.const_data_ptr<int32_t>();
  grads.geometry = geometry_grad;
  grads.v_means = results.v_means.data_ptr<float>();
  grads.v_quats = results.v_quats.data_ptr<float>();
  grads.v_scales = results.v_scales.data_ptr<float>();
  grads.v_covariances = results.v_covariances.data_ptr<float>();
  grads.v_opacities = results.v_opacities.data_ptr<float>();
  grads.v_sh0 = t.sh0 ? results.v_sh0.data_ptr<float>() : nullptr;
  grads.v_shN = t.shN ? results.v_shN.data_ptr<float>() : nullptr;
  grads.num_rest = decltype(grads.num_rest)(t.num_rest());
}

template <class Inputs>
void set_blend_inputs(Inputs& in, const BlendTensors& t, int64_t width, int64_t height,
                      int64_t depth_mode) {
  in.num_gaussians = decltype(in.num_gaussians)(t.num_gaussians());
  in.width = int(width), in.height = int(height), in.channels = int(t.channels());
  in.depth = decltype(in.depth)(depth_mode);
  in.means2d = t.means2d.const_data_ptr<float>();
  in.conics = t.conics.const_data_ptr<float>();
  in.opacities = t.opacities.const_data_ptr<float>();
  in.colors = t.colors.const_data_ptr<float>();
  in.colors_camera_stride = t.colors_camera_stride();
  in.depths = t.depths.const_data_ptr<float>();
  in.radii = t.radii.const_data_ptr<int32_t>();
  in.backgrounds = data(t.backgrounds);
}

}  // namespace raster
