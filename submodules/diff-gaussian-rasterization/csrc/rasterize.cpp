// The rasterizer's operators on the CPU: torch's side of csrc/cpu.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zero.h>
#include <torch/library.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "cpu/kernels.h"
#include "reuse.h"

namespace raster {
namespace {

Tensor zeros(at::IntArrayRef shape, at::TensorOptions options) {
  return reused_empty(shape, options).zero_();
}

std::vector<Camera> cameras_of(const Tensor& viewmats, const Tensor& Ks, int64_t width,
                               int64_t height) {
  const Tensor v = viewmats.contiguous(), k = Ks.contiguous();
  std::vector<Camera> cameras(v.size(0));
  for (int64_t c = 0; c < v.size(0); ++c) {
    const float* m = v.const_data_ptr<float>() + 16 * c;
    const float* K = k.const_data_ptr<float>() + 9 * c;
    Camera& cam = cameras[c];
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

[[noreturn]] void refuse_row(const ProjectTensors& a, int64_t row) {
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

ProjectInputs project_inputs(const ProjectTensors& t, const std::vector<Camera>& cameras,
                             int64_t width, int64_t height, int64_t sh_degree, double near_plane,
                             double far_plane, double eps2d, bool antialiased) {
  ProjectInputs in{};
  set_project_inputs(in, t, width, height, sh_degree, near_plane, far_plane, eps2d, antialiased);
  in.cameras = cameras.data();
  return in;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> project_cpu(
    const Tensor& means, const OptionalTensor& quats, const OptionalTensor& scales,
    const OptionalTensor& covariances, const Tensor& opacities, const OptionalTensor& sh0,
    const OptionalTensor& shN, const Tensor& viewmats, const Tensor& Ks, int64_t width,
    int64_t height, int64_t sh_degree, double near_plane, double far_plane, double eps2d,
    bool antialiased) {
  const ProjectTensors t =
      project_tensors("project", means, quats, scales, covariances, opacities, sh0, shN, viewmats,
                      Ks, width, height, sh_degree, near_plane, far_plane, eps2d);
  const std::vector<Camera> cameras = cameras_of(t.viewmats, t.Ks, width, height);
  const ProjectInputs in = project_inputs(t, cameras, width, height, sh_degree, near_plane,
                                          far_plane, eps2d, antialiased);
  const int64_t C = in.num_cameras, M = in.num_gaussians;
  const auto options = means.options();
  Tensor means2d = reused_empty({C, M, 2}, options), conics = reused_empty({C, M, 3}, options),
         depths = reused_empty({C, M}, options), seen = reused_empty({C, M}, options),
         radii = reused_empty({C, M}, options.dtype(at::kInt)),
         colors = reused_empty({C, sh0 ? M : 0, 3}, options);
  const Projected out{means2d.data_ptr<float>(),
                      conics.data_ptr<float>(),
                      depths.data_ptr<float>(),
                      seen.data_ptr<float>(),
                      sh0 ? colors.data_ptr<float>() : nullptr,
                      radii.data_ptr<int32_t>()};
  const int64_t bad = project(in, out, at::get_num_threads());
  if (bad >= 0) refuse_row(t, bad);
  return {means2d, conics, depths, seen, colors, radii};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> project_backward_cpu(
    const Tensor& v_means2d, const Tensor& v_conics, const OptionalTensor& v_depths,
    const Tensor& v_opacities2d, const Tensor& v_colors, const Tensor& conics, const Tensor& colors,
    const Tensor& radii, const Tensor& means, const OptionalTensor& quats,
    const OptionalTensor& scales, const OptionalTensor& covariances, const Tensor& opacities,
    const OptionalTensor& sh0, const OptionalTensor& shN, const Tensor& viewmats, const Tensor& Ks,
    int64_t width, int64_t height, int64_t sh_degree, double near_plane, double far_plane,
    double eps2d, bool antialiased, bool geometry_grad) {
  const char* op = "project_backward";
  const ProjectTensors t =
      project_tensors(op, means, quats, scales, covariances, opacities, sh0, shN, viewmats, Ks,
                      width, height, sh_degree, near_plane, far_plane, eps2d);
  ProjectUpstream up = project_upstream(op, t, v_means2d, v_conics, v_depths, v_opacities2d,
                                        v_colors, conics, colors, radii, geometry_grad);
  if (geometry_grad && !up.depths)
    up.depths = zeros({t.num_cameras(), t.num_gaussians()}, means.options());
  const std::vector<Camera> cameras = cameras_of(t.viewmats, t.Ks, width, height);
  const ProjectInputs in = project_inputs(t, cameras, width, height, sh_degree, near_plane,
                                          far_plane, eps2d, antialiased);
  const ProjectResults results = project_results(t, geometry_grad, [&](at::IntArrayRef shape) {
    return reused_empty(shape, means.options());
  });
  ProjectGradients grads;
  set_project_gradients(grads, t, up, results, geometry_grad);
  project_backward(in, grads, at::get_num_threads());
  return results.all();
}

BlendInputs blend_inputs(const BlendTensors& t, size_t num_sets, int64_t width, int64_t height,
                         int64_t depth_mode) {
  BlendInputs in{};
  set_blend_inputs(in, t, width, height, depth_mode);
  in.num_sections = int64_t(num_sets) * t.num_cameras();
  return in;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> blend_cpu(
    const Tensor& means2d, const Tensor& conics, const Tensor& opacities, const Tensor& colors,
    const Tensor& depths, const Tensor& radii, const OptionalTensor& backgrounds,
    const OptionalTensor& absgrad, at::IntArrayRef set_sizes, int64_t width, int64_t height,
    int64_t depth_mode, bool geometry_grad, bool keep_state, int64_t capacity) {
  const BlendTensors a = blend_tensors("blend", means2d, conics, opacities, colors, depths, radii,
                                       backgrounds, set_sizes, width, height, depth_mode);
  if (absgrad)
    check("blend", "absgrad", *absgrad, {means2d.size(0), means2d.size(1), 2}, means2d.device());
  (void)geometry_grad;               // only the backward asks
  (void)keep_state, (void)capacity;  // lists are exact here, and made in any case
  const BlendInputs in = blend_inputs(a, set_sizes.size(), width, height, depth_mode);
  const int64_t S = int64_t(set_sizes.size()), C = means2d.size(0);
  const auto options = means2d.options();
  Tensor color = reused_empty({S, C, height, width, in.channels}, options),
         alpha = reused_empty({S, C, height, width}, options);
  Tensor depth =
      depth_mode ? reused_empty({S, C, height, width}, options) : reused_empty({0}, options);
  Tensor state;
  const BlendOutputs out{color.data_ptr<float>(), alpha.data_ptr<float>(),
                         depth_mode ? depth.data_ptr<float>() : nullptr};
  raster::blend(
      in, set_sizes.data(), S, C, out,
      [](void* context, int64_t bytes) -> void* {
        Tensor& t = *static_cast<Tensor*>(context);
        t = reused_empty({bytes}, at::TensorOptions().dtype(at::kByte));
        return t.data_ptr();
      },
      &state, at::get_num_threads());
  const int64_t* header = reinterpret_cast<const int64_t*>(state.const_data_ptr());
  Tensor counts = at::empty({3}, options.dtype(at::kInt));
  int32_t* count = counts.data_ptr<int32_t>();
  count[0] = int32_t(header[0]), count[1] = int32_t(header[1]), count[2] = -1;
  // Lists and splats lie in one buffer here.
  return {color, alpha, depth, at::empty({0}, options.dtype(at::kByte)), state, counts};
}

std::tuple<Tensor, Tensor, Tensor> blend_shared_cpu(const Tensor& means2d, const Tensor& conics,
                                                    const Tensor& opacities, const Tensor& colors,
                                                    const Tensor& depths, const Tensor& radii,
                                                    const OptionalTensor& backgrounds,
                                                    const Tensor& lists, at::IntArrayRef set_sizes,
                                                    int64_t width, int64_t height,
                                                    int64_t depth_mode) {
  const char* op = "blend_shared";
  const BlendTensors a = blend_tensors(op, means2d, conics, opacities, colors, depths, radii,
                                       backgrounds, set_sizes, width, height, depth_mode);
  check(op, "lists", lists, {kAny}, means2d.device(), at::kByte);
  const BlendInputs in = blend_inputs(a, set_sizes.size(), width, height, depth_mode);
  const int64_t* header = reinterpret_cast<const int64_t*>(lists.const_data_ptr());
  TORCH_CHECK(lists.size(0) > 64 && header[2] == in.num_sections && header[3] == in.num_gaussians &&
                  header[4] == in.tiles() && header[5] == in.padded_values(),
              op, ": lists must come from a blend of as many sets, cameras, Gaussians, pixels and ",
              "channels that kept its state");
  const int64_t S = int64_t(set_sizes.size()), C = means2d.size(0);
  const auto options = means2d.options();
  Tensor color = reused_empty({S, C, height, width, in.channels}, options),
         alpha = reused_empty({S, C, height, width}, options);
  Tensor depth =
      depth_mode ? reused_empty({S, C, height, width}, options) : reused_empty({0}, options);
  const BlendOutputs out{color.data_ptr<float>(), alpha.data_ptr<float>(),
                         depth_mode ? depth.data_ptr<float>() : nullptr};
  raster::blend_shared(in, lists.const_data_ptr(), lists.size(0), out, at::get_num_threads());
  return {color, alpha, depth};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> blend_backward_cpu(
    const Tensor& v_color, const OptionalTensor& v_alpha, const OptionalTensor& v_depth,
    const Tensor& splats, const Tensor& state, const Tensor& means2d, const Tensor& conics,
    const Tensor& opacities, const Tensor& colors, const Tensor& depths, const Tensor& radii,
    const OptionalTensor& backgrounds, at::IntArrayRef set_sizes, int64_t width, int64_t height,
    int64_t depth_mode, bool geometry_grad, bool absolute) {
  const char* op = "blend_backward";
  const BlendTensors a = blend_tensors(op, means2d, conics, opacities, colors, depths, radii,
                                       backgrounds, set_sizes, width, height, depth_mode);
  const BlendInputs in = blend_inputs(a, set_sizes.size(), width, height, depth_mode);
  const at::Device cpu = means2d.device();
  check(op, "splats", splats, {0}, cpu, at::kByte);
  const int64_t S = int64_t(set_sizes.size()), C = means2d.size(0), M = means2d.size(1),
                D = in.channels;
  check(op, "v_color", v_color, {S, C, height, width, D}, cpu);
  if (v_alpha) check(op, "v_alpha", *v_alpha, {S, C, height, width}, cpu);
  if (v_depth) check(op, "v_depth", *v_depth, {S, C, height, width}, cpu);
  check(op, "state", state, {kAny}, cpu, at::kByte);
  const auto options = means2d.options();
  const bool g = geometry_grad;
  const auto make = [&](bool wanted, at::IntArrayRef shape) {
    return wanted ? zeros(shape, options) : at::empty({0}, options);
  };
  Tensor v_means2d = make(g, {C, M, 2}), v_conics = make(g, {C, M, 3}),
         v_opacities = make(g, {C, M}), v_depths = make(g && depth_mode, {C, M});
  Tensor v_absolute = make(g && absolute, {C, M, 2}), v_colors = make(true, {C, M, D});
  const Tensor color = v_color.contiguous();
  const OptionalTensor alpha = contiguous(v_alpha), depth = contiguous(v_depth);
  BlendGradients grads{};
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
  raster::blend_backward(in, state.data_ptr(), grads, at::get_num_threads());
  if (colors.size(0) == 1 && C > 1) v_colors = at::sum(v_colors, 0, /*keepdim=*/true);
  return {v_means2d, v_conics, v_opacities, v_colors, v_depths, v_absolute};
}

}  // namespace
}  // namespace raster

TORCH_LIBRARY_IMPL(twinsplat_raster, CPU, m) {
  m.impl("project", &raster::project_cpu);
  m.impl("project_backward", &raster::project_backward_cpu);
  m.impl("blend", &raster::blend_cpu);
  m.impl("blend_shared", &raster::blend_shared_cpu);
  m.impl("blend_backward", &raster::blend_backward_cpu);
}
