#include "arguments.h"

#include <string>

namespace raster {

void check(const char* op, const char* name, const Tensor& t, std::initializer_list<int64_t> shape,
           at::Device device, at::ScalarType dtype) {
  bool fits = t.dim() == int64_t(shape.size());
  std::string expected;
  int64_t i = 0;
  for (const int64_t n : shape) {
    expected += (i ? ", " : "") + (n == kAny ? std::string("*") : std::to_string(n));
    fits = fits && (n == kAny || t.size(i) == n);
    ++i;
  }
  TORCH_CHECK(fits && t.scalar_type() == dtype && t.device() == device, op, ": ", name, " must be ",
              dtype, " [", expected, "] on ", device.is_cpu() ? "the CPU" : device.str(), ", got ",
              t.scalar_type(), " ", t.sizes(), " on ", t.device());
}

ProjectTensors project_tensors(const char* op, const Tensor& means, const OptionalTensor& quats,
                               const OptionalTensor& scales, const OptionalTensor& covariances,
                               const Tensor& opacities, const OptionalTensor& sh0,
                               const OptionalTensor& shN, const Tensor& viewmats, const Tensor& Ks,
                               int64_t width, int64_t height, int64_t sh_degree, double near_plane,
                               double far_plane, double eps2d) {
  const at::Device device = means.device();
  check(op, "means", means, {kAny, 3}, device);
  const int64_t M = means.size(0);
  TORCH_CHECK(bool(quats) == bool(scales) && bool(quats) != bool(covariances), op,
              ": expected quats with scales, or covariances");
  if (quats) {
    check(op, "quats", *quats, {M, 4}, device);
    check(op, "scales", *scales, {M, 3}, device);
  } else {
    check(op, "covariances", *covariances, {M, 6}, device);
  }
  check(op, "opacities", opacities, {M}, device);
  check(op, "viewmats", viewmats, {kAny, 4, 4}, device);
  check(op, "Ks", Ks, {viewmats.size(0), 3, 3}, device);
  TORCH_CHECK(width > 0 && height > 0, op, ": width and height must be positive, got ", width,
              " x ", height);
  TORCH_CHECK(width <= 32768 && height <= 32768, op,
              ": images of up to 32768 pixels a side are supported, got ", width, " x ", height);
  TORCH_CHECK(eps2d >= 0 && near_plane < far_plane, op,
              ": eps2d must not be negative and near_plane must be below far_plane, got eps2d=",
              eps2d, " near_plane=", near_plane, " far_plane=", far_plane);
  TORCH_CHECK(near_plane >= 0, op, ": near_plane must not be negative, got ", near_plane);
  TORCH_CHECK(bool(sh0) == bool(shN), op, ": sh0 and shN come together");
  if (sh0) {
    TORCH_CHECK(sh_degree >= 0 && sh_degree <= 3, op, ": sh_degree must be 0 to 3, got ",
                sh_degree);
    check(op, "sh0", *sh0, {M, 1, 3}, device);
    check(op, "shN", *shN, {M, kAny, 3}, device);
    const int64_t needed = (sh_degree + 1) * (sh_degree + 1) - 1;
    TORCH_CHECK(shN->size(1) >= needed, op, ": sh_degree ", sh_degree, " needs shN of [", M,
                ", at least ", needed, ", 3], got ", shN->sizes());
  }
  const auto rows = [](const OptionalTensor& t) {
    if (!t || t->numel() == 0) return contiguous(t);
    const bool plain = t->stride(2) == 1 && (t->size(1) == 1 || t->stride(1) == 3);
    return plain ? t : OptionalTensor(t->contiguous());
  };
  return {means.contiguous(), opacities.contiguous(), viewmats.contiguous(),   Ks.contiguous(),
          contiguous(quats),  contiguous(scales),     contiguous(covariances), rows(sh0),
          rows(shN)};
}

ProjectUpstream project_upstream(const char* op, const ProjectTensors& in, const Tensor& v_means2d,
                                 const Tensor& v_conics, const OptionalTensor& v_depths,
                                 const Tensor& v_opacities, const Tensor& v_colors,
                                 const Tensor& conics, const Tensor& colors, const Tensor& radii,
                                 bool geometry_grad) {
  const int64_t C = in.num_cameras(), M = in.num_gaussians();
  const at::Device device = in.means.device();
  if (geometry_grad) {
    check(op, "v_means2d", v_means2d, {C, M, 2}, device);
    check(op, "v_conics", v_conics, {C, M, 3}, device);
    if (v_depths) check(op, "v_depths", *v_depths, {C, M}, device);
    check(op, "v_opacities", v_opacities, {C, M}, device);
  }
  check(op, "conics", conics, {C, M, 3}, device);
  check(op, "radii", radii, {C, M}, device, at::kInt);
  if (in.sh0) {
    check(op, "v_colors", v_colors, {C, M, 3}, device);
    check(op, "colors", colors, {C, M, 3}, device);
  }
  return {v_means2d.contiguous(), v_conics.contiguous(), v_opacities.contiguous(),
          v_colors.contiguous(),  colors.contiguous(),   conics.contiguous(),
          radii.contiguous(),     contiguous(v_depths)};
}

BlendTensors blend_tensors(const char* op, const Tensor& means2d, const Tensor& conics,
                           const Tensor& opacities, const Tensor& colors, const Tensor& depths,
                           const Tensor& radii, const OptionalTensor& backgrounds,
                           at::IntArrayRef set_sizes, int64_t width, int64_t height,
                           int64_t depth_mode) {
  const at::Device device = means2d.device();
  check(op, "means2d", means2d, {kAny, kAny, 2}, device);
  const int64_t C = means2d.size(0), M = means2d.size(1);
  check(op, "conics", conics, {C, M, 3}, device);
  check(op, "opacities", opacities, {C, M}, device);
  check(op, "depths", depths, {C, M}, device);
  check(op, "radii", radii, {C, M}, device, at::kInt);
  check(op, "colors", colors, {kAny, M, kAny}, device);
  TORCH_CHECK((colors.size(0) == C || colors.size(0) == 1) && colors.size(2) > 0, op,
              ": colors must be [", C, " or 1, ", M, ", at least 1], got ", colors.sizes());
  if (backgrounds) check(op, "backgrounds", *backgrounds, {C, colors.size(2)}, device);
  TORCH_CHECK(width > 0 && height > 0, op, ": width and height must be positive, got ", width,
              " x ", height);
  TORCH_CHECK(depth_mode >= 0 && depth_mode <= 2, op, ": depth_mode must be 0 to 2, got ",
              depth_mode);
  int64_t total = 0;
  for (const int64_t n : set_sizes) {
    TORCH_CHECK(n >= 0, op, ": set_sizes must not be negative, got ", set_sizes);
    total += n;
  }
  TORCH_CHECK(total == M, op, ": set_sizes must add up to the ", M, " Gaussians given, got ",
              set_sizes);
  return {means2d.contiguous(), conics.contiguous(), opacities.contiguous(), colors.contiguous(),
          depths.contiguous(),  radii.contiguous(),  contiguous(backgrounds)};
}

}  // namespace raster
