// Schemas of the rasterizer's operators, the checks of what they are given, and the CPU side.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zero.h>
#include <torch/library.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "cpu/kernels.h"
#include "reuse.h"

namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr int64_t kAny = -1;

// Dtype, device and shape of an argument; kAny leaves a dimension free.
void check(const char* op, const char* name, const Tensor& t, std::initializer_list<int64_t> shape,
           at::ScalarType dtype = at::kFloat) {
  bool fits = t.dim() == int64_t(shape.size());
  std::string expected;
  int64_t i = 0;
  for (const int64_t n : shape) {
    expected += (i ? ", " : "") + (n == kAny ? std::string("*") : std::to_string(n));
    fits = fits && (n == kAny || t.size(i) == n);
    ++i;
  }
  TORCH_CHECK(fits && t.scalar_type() == dtype && t.device().is_cpu(), op, ": ", name, " must be ",
              dtype, " [", expected, "] on the CPU, got ", t.scalar_type(), " ", t.sizes(), " on ",
              t.device());
}

const float* data(const OptionalTensor& t) { return t ? t->const_data_ptr<float>() : nullptr; }

Tensor zeros(at::IntArrayRef shape, at::TensorOptions options) {
  return raster::reused_empty(shape, options).zero_();
}

OptionalTensor contiguous(const OptionalTensor& t) {
  return t ? OptionalTensor(t->contiguous()) : t;
}

std::vector<raster::Camera> cameras_of(const Tensor& viewmats, const Tensor& Ks, int64_t width,
                                       int64_t height) {
  const Tensor v = viewmats.contiguous(), k = Ks.contiguous();
  std::vector<raster::Camera> cameras(v.size(0));
  for (int64_t c = 0; c < v.size(0); ++c) {
    const float* m = v.const_data_ptr<float>() + 16 * c;
    const float* K = k.const_data_ptr<float>() + 9 * c;
    raster::Camera& cam = cameras[c];
    for (int r = 0; r < 3; ++r) {
      for (int i = 0; i < 3; ++i) cam.rotation[3 * r + i] = m[4 * r + i];
      cam.translation[r] = m[4 * r + 3];
    }
    for (int i = 0; i < 3; ++i)
      cam.position[i] = -(m[i] * m[3] + m[4 + i] * m[7] + m[8 + i] * m[11]);
    cam.fx = K[0], cam.fy = K[4], cam.cx = K[2], cam.cy = K[5];
    TORCH_CHECK(cam.fx > 0 && cam.fy > 0 && std::isfinite(cam.fx + cam.fy + cam.cx + cam.cy),
                "project: Ks[", c, "] must have positive finite focal lengths, got fx=", cam.fx,
                " fy=", cam.fy, " cx=", cam.cx, " cy=", cam.cy);
    bool finite = true;
    for (int i = 0; i < 12; ++i) finite = finite && std::isfinite(m[i]);
    TORCH_CHECK(finite, "project: viewmats[", c, "] holds a value that is not finite");
    const float margin = 0.15f;  // of the image, outside which the Jacobian is held
    cam.min_u = (-margin * width - cam.cx) / cam.fx,
    cam.max_u = ((1 + margin) * width - cam.cx) / cam.fx;
    cam.min_v = (-margin * height - cam.cy) / cam.fy,
    cam.max_v = ((1 + margin) * height - cam.cy) / cam.fy;
  }
  return cameras;
}

// The contiguous tensors behind ProjectInputs, kept alive with it.
struct ProjectArguments {
  Tensor means, opacities;
  OptionalTensor quats, scales, covariances, sh0, shN;
  std::vector<raster::Camera> cameras;
  raster::ProjectInputs in;
};

ProjectArguments project_arguments(const char* op, const Tensor& means, const OptionalTensor& quats,
                                   const OptionalTensor& scales, const OptionalTensor& covariances,
                                   const Tensor& opacities, const OptionalTensor& sh0,
                                   const OptionalTensor& shN, const Tensor& viewmats,
                                   const Tensor& Ks, int64_t width, int64_t height,
                                   int64_t sh_degree, double near_plane, double far_plane,
                                   double eps2d, bool antialiased) {
  check(op, "means", means, {kAny, 3});
  const int64_t M = means.size(0);
  TORCH_CHECK(bool(quats) == bool(scales) && bool(quats) != bool(covariances), op,
              ": expected quats with scales, or covariances");
  if (quats) {
    check(op, "quats", *quats, {M, 4});
    check(op, "scales", *scales, {M, 3});
  } else {
    check(op, "covariances", *covariances, {M, 6});
  }
  check(op, "opacities", opacities, {M});
  check(op, "viewmats", viewmats, {kAny, 4, 4});
  check(op, "Ks", Ks, {viewmats.size(0), 3, 3});
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
    check(op, "sh0", *sh0, {M, 1, 3});
    check(op, "shN", *shN, {M, kAny, 3});
    const int64_t needed = (sh_degree + 1) * (sh_degree + 1) - 1;
    TORCH_CHECK(shN->size(1) >= needed, op, ": sh_degree ", sh_degree, " needs shN of [", M,
                ", at least ", needed, ", 3], got ", shN->sizes());
  }
  const auto rows =
      [](const OptionalTensor& t) {  // rows whose coefficients are contiguous may stay
        if (!t || t->numel() == 0) return contiguous(t);
        const bool plain = t->stride(2) == 1 && (t->size(1) == 1 || t->stride(1) == 3);
        return plain ? t : OptionalTensor(t->contiguous());
      };
  ProjectArguments a{means.contiguous(),
                     opacities.contiguous(),
                     contiguous(quats),
                     contiguous(scales),
                     contiguous(covariances),
                     rows(sh0),
                     rows(shN),
                     cameras_of(viewmats, Ks, width, height),
                     {}};
  raster::ProjectInputs& in = a.in;
  in.num_gaussians = M;
  in.num_cameras = viewmats.size(0);
  in.means = a.means.const_data_ptr<float>();
  in.quats = data(a.quats);
  in.scales = data(a.scales);
  in.covariances = data(a.covariances);
  in.opacities = a.opacities.const_data_ptr<float>();
  in.sh0 = data(a.sh0);
  in.shN = data(a.shN);
  in.sh0_stride = a.sh0 ? a.sh0->stride(0) : 0;
  in.shN_stride = a.shN ? a.shN->stride(0) : 0;
  in.sh_degree = int(sh_degree);
  in.cameras = a.cameras.data();
  in.width = int(width), in.height = int(height);
  in.near_plane = float(near_plane), in.far_plane = float(far_plane), in.eps2d = float(eps2d);
  in.antialiased = antialiased;
  return a;
}

[[noreturn]] void refuse_row(const ProjectArguments& a, int64_t row) {
  const std::pair<const char*, const OptionalTensor> arguments[] = {{"means", a.means},
                                                                    {"quats", a.quats},
                                                                    {"scales", a.scales},
                                                                    {"covariances", a.covariances},
                                                                    {"opacities", a.opacities}};
  for (const auto& [name, tensor] : arguments) {
    if (!tensor) continue;
    const int64_t width = tensor->numel() / tensor->size(0);
    for (int64_t k = 0; k < width; ++k) {
      const float value = tensor->const_data_ptr<float>()[row * width + k];
      TORCH_CHECK_VALUE(std::isfinite(value), "project: ", name, " must be finite, got ", value,
                        " at row ", row);
    }
  }
  TORCH_CHECK_VALUE(false, "project: row ", row, " holds a value that is not finite");
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> project(
    const Tensor& means, const OptionalTensor& quats, const OptionalTensor& scales,
    const OptionalTensor& covariances, const Tensor& opacities, const OptionalTensor& sh0,
    const OptionalTensor& shN, const Tensor& viewmats, const Tensor& Ks, int64_t width,
    int64_t height, int64_t sh_degree, double near_plane, double far_plane, double eps2d,
    bool antialiased) {
  const ProjectArguments a =
      project_arguments("project", means, quats, scales, covariances, opacities, sh0, shN, viewmats,
                        Ks, width, height, sh_degree, near_plane, far_plane, eps2d, antialiased);
  const int64_t C = a.in.num_cameras, M = a.in.num_gaussians;
  const auto options = means.options();
  Tensor means2d = raster::reused_empty({C, M, 2}, options),
         conics = raster::reused_empty({C, M, 3}, options),
         depths = raster::reused_empty({C, M}, options);
  Tensor seen = raster::reused_empty({C, M}, options),
         radii = raster::reused_empty({C, M}, options.dtype(at::kInt));
  Tensor colors = raster::reused_empty({C, sh0 ? M : 0, 3}, options);
  const raster::Projected out{means2d.data_ptr<float>(),
                              conics.data_ptr<float>(),
                              depths.data_ptr<float>(),
                              seen.data_ptr<float>(),
                              sh0 ? colors.data_ptr<float>() : nullptr,
                              radii.data_ptr<int32_t>()};
  const int64_t bad = raster::project(a.in, out, at::get_num_threads());
  if (bad >= 0) refuse_row(a, bad);
  return {means2d, conics, depths, seen, colors, radii};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> project_backward(
    const Tensor& v_means2d, const Tensor& v_conics, const Tensor& v_depths, const Tensor& v_seen,
    const Tensor& v_colors, const Tensor& conics, const Tensor& colors, const Tensor& radii,
    const Tensor& means, const OptionalTensor& quats, const OptionalTensor& scales,
    const OptionalTensor& covariances, const Tensor& opacities, const OptionalTensor& sh0,
    const OptionalTensor& shN, const Tensor& viewmats, const Tensor& Ks, int64_t width,
    int64_t height, int64_t sh_degree, double near_plane, double far_plane, double eps2d,
    bool antialiased, bool geometry_grad) {
  const char* op = "project_backward";
  const ProjectArguments a =
      project_arguments(op, means, quats, scales, covariances, opacities, sh0, shN, viewmats, Ks,
                        width, height, sh_degree, near_plane, far_plane, eps2d, antialiased);
  const int64_t C = a.in.num_cameras, M = a.in.num_gaussians;
  if (geometry_grad) {
    check(op, "v_means2d", v_means2d, {C, M, 2});
    check(op, "v_conics", v_conics, {C, M, 3});
    check(op, "v_depths", v_depths, {C, M});
    check(op, "v_opacities", v_seen, {C, M});
  }
  check(op, "conics", conics, {C, M, 3});
  check(op, "radii", radii, {C, M}, at::kInt);
  if (sh0) {
    check(op, "v_colors", v_colors, {C, M, 3});
    check(op, "colors", colors, {C, M, 3});
  }
  const auto options = means.options();
  const auto make = [&](bool wanted, at::IntArrayRef shape) {
    return wanted ? raster::reused_empty(shape, options) : raster::reused_empty({0}, options);
  };
  const bool g = geometry_grad;
  Tensor v_means = make(g, {M, 3}), v_quats = make(g && quats, {M, 4}),
         v_scales = make(g && quats, {M, 3});
  Tensor v_covariances = make(g && covariances, {M, 6}), v_opacities = make(g, {M});
  const int64_t rest = shN ? shN->size(1) : 0;
  Tensor v_sh0 = make(bool(sh0), {M, 1, 3}), v_shN = make(bool(shN), {M, rest, 3});
  const Tensor upstream[] = {v_means2d.contiguous(), v_conics.contiguous(), v_depths.contiguous(),
                             v_seen.contiguous(),    v_colors.contiguous(), colors.contiguous(),
                             conics.contiguous(),    radii.contiguous()};
  raster::ProjectGradients grads;
  grads.means2d = upstream[0].const_data_ptr<float>();
  grads.conics = upstream[1].const_data_ptr<float>();
  grads.depths = upstream[2].const_data_ptr<float>();
  grads.opacities = upstream[3].const_data_ptr<float>();
  grads.colors = upstream[4].const_data_ptr<float>();
  grads.projected_colors = upstream[5].const_data_ptr<float>();
  grads.projected_conics = upstream[6].const_data_ptr<float>();
  grads.radii = upstream[7].const_data_ptr<int32_t>();
  grads.geometry = g;
  grads.v_means = v_means.data_ptr<float>();
  grads.v_quats = v_quats.data_ptr<float>();
  grads.v_scales = v_scales.data_ptr<float>();
  grads.v_covariances = v_covariances.data_ptr<float>();
  grads.v_opacities = v_opacities.data_ptr<float>();
  grads.v_sh0 = sh0 ? v_sh0.data_ptr<float>() : nullptr;
  grads.v_shN = shN ? v_shN.data_ptr<float>() : nullptr;
  grads.num_rest = rest;
  raster::project_backward(a.in, grads, at::get_num_threads());
  return {v_means, v_quats, v_scales, v_covariances, v_opacities, v_sh0, v_shN};
}

struct BlendArguments {
  Tensor means2d, conics, opacities, colors, depths, radii;
  OptionalTensor backgrounds;
  raster::BlendInputs in;
};

BlendArguments blend_arguments(const char* op, const Tensor& means2d, const Tensor& conics,
                               const Tensor& opacities, const Tensor& colors, const Tensor& depths,
                               const Tensor& radii, const OptionalTensor& backgrounds,
                               at::IntArrayRef set_sizes, int64_t width, int64_t height,
                               int64_t depth_mode) {
  check(op, "means2d", means2d, {kAny, kAny, 2});
  const int64_t C = means2d.size(0), M = means2d.size(1);
  check(op, "conics", conics, {C, M, 3});
  check(op, "opacities", opacities, {C, M});
  check(op, "depths", depths, {C, M});
  check(op, "radii", radii, {C, M}, at::kInt);
  check(op, "colors", colors, {kAny, M, kAny});
  TORCH_CHECK((colors.size(0) == C || colors.size(0) == 1) && colors.size(2) > 0, op,
              ": colors must be [", C, " or 1, ", M, ", at least 1], got ", colors.sizes());
  if (backgrounds) check(op, "backgrounds", *backgrounds, {C, colors.size(2)});
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
  BlendArguments a{
      means2d.contiguous(), conics.contiguous(), opacities.contiguous(),  colors.contiguous(),
      depths.contiguous(),  radii.contiguous(),  contiguous(backgrounds), {}};
  raster::BlendInputs& in = a.in;
  in.num_gaussians = M;
  in.num_sections = int64_t(set_sizes.size()) * C;
  in.width = int(width), in.height = int(height), in.channels = int(colors.size(2));
  in.depth = raster::DepthMode(depth_mode);
  in.means2d = a.means2d.const_data_ptr<float>();
  in.conics = a.conics.const_data_ptr<float>();
  in.opacities = a.opacities.const_data_ptr<float>();
  in.colors = a.colors.const_data_ptr<float>();
  in.colors_camera_stride = colors.size(0) == 1 ? 0 : M * colors.size(2);
  in.depths = a.depths.const_data_ptr<float>();
  in.radii = a.radii.const_data_ptr<int32_t>();
  in.backgrounds = data(a.backgrounds);
  return a;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> blend(
    const Tensor& means2d, const Tensor& conics, const Tensor& opacities, const Tensor& colors,
    const Tensor& depths, const Tensor& radii, const OptionalTensor& backgrounds,
    const OptionalTensor& absgrad, at::IntArrayRef set_sizes, int64_t width, int64_t height,
    int64_t depth_mode, bool geometry_grad) {
  const BlendArguments a =
      blend_arguments("blend", means2d, conics, opacities, colors, depths, radii, backgrounds,
                      set_sizes, width, height, depth_mode);
  if (absgrad) check("blend", "absgrad", *absgrad, {means2d.size(0), means2d.size(1), 2});
  (void)geometry_grad;  // only the backward asks
  const int64_t S = int64_t(set_sizes.size()), C = means2d.size(0);
  const auto options = means2d.options();
  Tensor color = raster::reused_empty({S, C, height, width, a.in.channels}, options),
         alpha = raster::reused_empty({S, C, height, width}, options);
  Tensor depth = depth_mode ? raster::reused_empty({S, C, height, width}, options)
                            : raster::reused_empty({0}, options);
  Tensor state;
  const raster::BlendOutputs out{color.data_ptr<float>(), alpha.data_ptr<float>(),
                                 depth_mode ? depth.data_ptr<float>() : nullptr};
  raster::blend(
      a.in, set_sizes.data(), S, C, out,
      [](void* context, int64_t bytes) -> void* {
        Tensor& t = *static_cast<Tensor*>(context);
        t = raster::reused_empty({bytes}, at::TensorOptions().dtype(at::kByte));
        return t.data_ptr();
      },
      &state, at::get_num_threads());
  return {color, alpha, depth, state};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> blend_backward(
    const Tensor& v_color, const OptionalTensor& v_alpha, const OptionalTensor& v_depth,
    const Tensor& state, const Tensor& means2d, const Tensor& conics, const Tensor& opacities,
    const Tensor& colors, const Tensor& depths, const Tensor& radii,
    const OptionalTensor& backgrounds, at::IntArrayRef set_sizes, int64_t width, int64_t height,
    int64_t depth_mode, bool geometry_grad, bool absolute) {
  const char* op = "blend_backward";
  const BlendArguments a = blend_arguments(op, means2d, conics, opacities, colors, depths, radii,
                                           backgrounds, set_sizes, width, height, depth_mode);
  const int64_t S = int64_t(set_sizes.size()), C = means2d.size(0), M = means2d.size(1),
                D = a.in.channels;
  check(op, "v_color", v_color, {S, C, height, width, D});
  if (v_alpha) check(op, "v_alpha", *v_alpha, {S, C, height, width});
  if (v_depth) check(op, "v_depth", *v_depth, {S, C, height, width});
  check(op, "state", state, {kAny}, at::kByte);
  const auto options = means2d.options();
  const bool g = geometry_grad;
  const auto make = [&](bool wanted, at::IntArrayRef shape) {
    return wanted ? zeros(shape, options) : at::empty({0}, options);
  };
  Tensor v_means2d = make(g, {C, M, 2}), v_conics = make(g, {C, M, 3}),
         v_opacities = make(g, {C, M}), v_depths = make(g, {C, M});
  Tensor v_absolute = make(g && absolute, {C, M, 2}), v_colors = make(true, {C, M, D});
  const Tensor color = v_color.contiguous();
  const OptionalTensor alpha = contiguous(v_alpha), depth = contiguous(v_depth);
  raster::BlendGradients grads{};
  grads.color = color.const_data_ptr<float>();
  grads.alpha = data(alpha);
  grads.depth = depth_mode ? data(depth) : nullptr;
  grads.geometry = g;
  grads.absolute = absolute;
  grads.v_means2d = v_means2d.data_ptr<float>();
  grads.v_conics = v_conics.data_ptr<float>();
  grads.v_opacities = v_opacities.data_ptr<float>();
  grads.v_colors = v_colors.data_ptr<float>();
  grads.v_depths = v_depths.data_ptr<float>();
  grads.v_absolute = v_absolute.data_ptr<float>();
  raster::blend_backward(a.in, state.data_ptr(), grads, at::get_num_threads());
  if (colors.size(0) == 1 && C > 1) v_colors = at::sum(v_colors, 0, /*keepdim=*/true);
  return {v_means2d, v_conics, v_opacities, v_colors, v_depths, v_absolute};
}

}  // namespace

#define TWINSPLAT_PROJECT_ARGUMENTS                                                              \
  "Tensor means, Tensor? quats, Tensor? scales, Tensor? covariances, Tensor opacities, Tensor? " \
  "sh0, Tensor? shN, "                                                                           \
  "Tensor viewmats, Tensor Ks, int width, int height, int sh_degree, float near_plane, float "   \
  "far_plane, float eps2d, "                                                                     \
  "bool antialiased"

TORCH_LIBRARY(twinsplat_raster, m) {
  m.def("project(" TWINSPLAT_PROJECT_ARGUMENTS
        ") -> (Tensor means2d, Tensor conics, Tensor depths, Tensor opacities, Tensor colors, "
        "Tensor radii)");
  m.def(
      "project_backward(Tensor v_means2d, Tensor v_conics, Tensor v_depths, Tensor v_opacities, "
      "Tensor v_colors, Tensor conics, "
      "Tensor colors, Tensor radii, " TWINSPLAT_PROJECT_ARGUMENTS
      ", bool geometry_grad) -> (Tensor v_means, Tensor v_quats, Tensor v_scales, Tensor "
      "v_covariances, Tensor v_opacities, "
      "Tensor v_sh0, Tensor v_shN)");
  m.def(
      "blend(Tensor means2d, Tensor conics, Tensor opacities, Tensor colors, Tensor depths, Tensor "
      "radii, Tensor? backgrounds, "
      "Tensor? absgrad, int[] set_sizes, int width, int height, int depth_mode, bool "
      "geometry_grad) -> (Tensor color, Tensor alpha, "
      "Tensor depth, Tensor state)");
  m.def(
      "blend_backward(Tensor v_color, Tensor? v_alpha, Tensor? v_depth, Tensor state, Tensor "
      "means2d, Tensor conics, "
      "Tensor opacities, Tensor colors, Tensor depths, Tensor radii, Tensor? backgrounds, int[] "
      "set_sizes, int width, int height, "
      "int depth_mode, bool geometry_grad, bool absolute) -> (Tensor v_means2d, Tensor v_conics, "
      "Tensor v_opacities, "
      "Tensor v_colors, Tensor v_depths, Tensor v_absgrad)");
}

TORCH_LIBRARY_IMPL(twinsplat_raster, CPU, m) {
  m.impl("project", &project);
  m.impl("project_backward", &project_backward);
  m.impl("blend", &blend);
  m.impl("blend_backward", &blend_backward);
}
