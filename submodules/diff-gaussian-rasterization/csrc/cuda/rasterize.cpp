// The rasterizer's operators on the GPU: torch's side of the kernels.
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <tuple>

#include "../arguments.h"
#include "kernels/blend.h"
#include "kernels/project.h"

namespace raster::cuda {
namespace {

using c10::cuda::CUDAGuard;
using c10::cuda::getCurrentCUDAStream;

ProjectInputs project_inputs(const ProjectTensors& t, int64_t width, int64_t height,
                             int64_t sh_degree, double near_plane, double far_plane, double eps2d,
                             bool antialiased) {
  TORCH_CHECK(t.num_gaussians() * t.num_cameras() < (int64_t(1) << 28),
              "project: up to 2^28 Gaussians times cameras are supported on a GPU, got ",
              t.num_gaussians(), " x ", t.num_cameras());
  ProjectInputs in{};
  set_project_inputs(in, t, width, height, sh_degree, near_plane, far_plane, eps2d, antialiased);
  in.viewmats = t.viewmats.const_data_ptr<float>();
  in.Ks = t.Ks.const_data_ptr<float>();
  return in;
}

// Quaternions are read 16 bytes at a time; a view into another tensor may lie in between.
void align(OptionalTensor& t) {
  if (t && reinterpret_cast<uintptr_t>(t->const_data_ptr()) % 16) t = t->clone();
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> project_cuda(
    const Tensor& means, const OptionalTensor& quats, const OptionalTensor& scales,
    const OptionalTensor& covariances, const Tensor& opacities, const OptionalTensor& sh0,
    const OptionalTensor& shN, const Tensor& viewmats, const Tensor& Ks, int64_t width,
    int64_t height, int64_t sh_degree, double near_plane, double far_plane, double eps2d,
    bool antialiased) {
  ProjectTensors t =
      project_tensors("project", means, quats, scales, covariances, opacities, sh0, shN, viewmats,
                      Ks, width, height, sh_degree, near_plane, far_plane, eps2d);
  const CUDAGuard guard(means.device());
  align(t.quats);
  const ProjectInputs in =
      project_inputs(t, width, height, sh_degree, near_plane, far_plane, eps2d, antialiased);
  const int64_t C = in.num_cameras, M = in.num_gaussians;
  const auto options = means.options();
  Tensor means2d = at::empty({C, M, 2}, options), conics = at::empty({C, M, 3}, options),
         depths = at::empty({C, M}, options), seen = at::empty({C, M}, options),
         radii = at::empty({C, M}, options.dtype(at::kInt)),
         colors = at::empty({C, sh0 ? M : 0, 3}, options);
  const Projected out{means2d.data_ptr<float>(),
                      conics.data_ptr<float>(),
                      depths.data_ptr<float>(),
                      seen.data_ptr<float>(),
                      sh0 ? colors.data_ptr<float>() : nullptr,
                      radii.data_ptr<int32_t>()};
  project(in, out, getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {means2d, conics, depths, seen, colors, radii};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> project_backward_cuda(
    const Tensor& v_means2d, const Tensor& v_conics, const OptionalTensor& v_depths,
    const Tensor& v_opacities2d, const Tensor& v_colors, const Tensor& conics, const Tensor& colors,
    const Tensor& radii, const Tensor& means, const OptionalTensor& quats,
    const OptionalTensor& scales, const OptionalTensor& covariances, const Tensor& opacities,
    const OptionalTensor& sh0, const OptionalTensor& shN, const Tensor& viewmats, const Tensor& Ks,
    int64_t width, int64_t height, int64_t sh_degree, double near_plane, double far_plane,
    double eps2d, bool antialiased, bool geometry_grad) {
  const char* op = "project_backward";
  ProjectTensors t =
      project_tensors(op, means, quats, scales, covariances, opacities, sh0, shN, viewmats, Ks,
                      width, height, sh_degree, near_plane, far_plane, eps2d);
  const ProjectUpstream up = project_upstream(op, t, v_means2d, v_conics, v_depths, v_opacities2d,
                                              v_colors, conics, colors, radii, geometry_grad);
  const CUDAGuard guard(means.device());
  align(t.quats);
  const ProjectInputs in =
      project_inputs(t, width, height, sh_degree, near_plane, far_plane, eps2d, antialiased);
  const ProjectResults results = project_results(
      t, geometry_grad, [&](at::IntArrayRef shape) { return at::empty(shape, means.options()); });
  ProjectGradients grads{};
  set_project_gradients(grads, t, up, results, geometry_grad);
  project_backward(in, grads, getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return results.all();
}

BlendInputs blend_inputs(const char* op, const BlendTensors& t, at::IntArrayRef set_sizes,
                         int64_t width, int64_t height, int64_t depth_mode) {
  TORCH_CHECK(set_sizes.size() <= kMaxSets, op, ": up to ", kMaxSets,
              " sets are supported on a GPU, got ", set_sizes.size());
  TORCH_CHECK(t.channels() + 1 <= kMaxChannels, op, ": up to ", kMaxChannels - 1,
              " channels are supported on a GPU, got ", t.channels());
  BlendInputs in{};
  set_blend_inputs(in, t, width, height, depth_mode);
  in.num_cameras = int(t.num_cameras());
  in.num_sets = int(set_sizes.size());
  int64_t end = 0;
  for (size_t s = 0; s < set_sizes.size(); ++s) in.set_ends[s] = int(end += set_sizes[s]);
  return in;
}

int round_up(int64_t pairs) {
  // At least one chunk, so that no array is empty.
  return int((std::max<int64_t>(pairs, 1) + kChunk - 1) / kChunk * kChunk);
}

// The capacity behind a state of so many bytes: every chunk makes it larger.
int capacity_of(BlendInputs in, int64_t bytes) {
  int64_t low = 0, high = ((int64_t(1) << 31) - 1) / kChunk;  // in chunks
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    in.capacity = int(middle * kChunk);
    if (state_bytes(in, true) <= bytes)
      low = middle;
    else
      high = middle - 1;
  }
  return int(low * kChunk);
}

[[noreturn]] void refuse_row(int32_t bad) {
  const char* names[] = {"an argument", "means", "quats", "scales", "covariances", "opacities"};
  TORCH_CHECK_VALUE(false, "project: ", names[bad % 8],
                    " must be finite, got a NaN or infinity at ", "row ", bad / 8);
}

// Waits for the device.
Totals read(const Totals* totals, cudaStream_t stream) {
  Totals host;
  C10_CUDA_CHECK(cudaMemcpyAsync(&host, totals, sizeof host, cudaMemcpyDeviceToHost, stream));
  C10_CUDA_CHECK(cudaStreamSynchronize(stream));
  return host;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> blend_cuda(
    const Tensor& means2d, const Tensor& conics, const Tensor& opacities, const Tensor& colors,
    const Tensor& depths, const Tensor& radii, const OptionalTensor& backgrounds,
    const OptionalTensor& absgrad, at::IntArrayRef set_sizes, int64_t width, int64_t height,
    int64_t depth_mode, bool geometry_grad, bool keep_state, int64_t capacity) {
  const BlendTensors t = blend_tensors("blend", means2d, conics, opacities, colors, depths, radii,
                                       backgrounds, set_sizes, width, height, depth_mode);
  if (absgrad)
    check("blend", "absgrad", *absgrad, {means2d.size(0), means2d.size(1), 2}, means2d.device());
  (void)geometry_grad;  // only the backward asks
  const CUDAGuard guard(means2d.device());
  const cudaStream_t stream = getCurrentCUDAStream();
  BlendInputs in = blend_inputs("blend", t, set_sizes, width, height, depth_mode);
  const auto options = means2d.options(), bytes = options.dtype(at::kByte);
  Tensor splat_bytes = at::empty({splats_bytes(in)}, bytes),
         // Never empty: no keys at all would mean lists that exist.
      depth_keys = at::empty({2 * int64_t(in.rows()) + 1}, options.dtype(at::kInt)),
         counts = at::empty({3}, options.dtype(at::kInt));
  const Splats splats = splats_view(in, splat_bytes.data_ptr());
  auto* const keys = reinterpret_cast<uint32_t*>(depth_keys.data_ptr<int32_t>());
  pack(in, splats, keys, stream);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  if (capacity < 0) {
    const Totals known = read(splats.totals, stream);
    if (known.bad != kNoBad) refuse_row(known.bad);
    TORCH_CHECK(known.pairs >= 0, "blend: more than 2^31 pairs of splats and tiles; render fewer ",
                "cameras at once");
    capacity = known.pairs;
  }
  TORCH_CHECK(capacity < (int64_t(1) << 31) - kChunk, "blend: capacity must be below 2^31 - ",
              kChunk, ", got ", capacity);
  in.capacity = round_up(capacity);
  Tensor buffer = at::empty({state_bytes(in, keep_state)}, bytes);
  const BlendState state = state_view(in, keep_state, buffer.data_ptr());
  {
    Tensor memory = at::empty({list_scratch_bytes(in)}, bytes);
    make_lists(in, splats, state, list_scratch(in, memory.data_ptr()), keys,
               counts.data_ptr<int32_t>(), stream);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  const int64_t S = in.num_sets, C = in.num_cameras;
  Tensor color = at::empty({S, C, height, width, in.channels}, options),
         alpha = at::empty({S, C, height, width}, options),
         depth = depth_mode ? at::empty({S, C, height, width}, options) : at::empty({0}, options);
  const BlendOutputs out{color.data_ptr<float>(), alpha.data_ptr<float>(),
                         depth_mode ? depth.data_ptr<float>() : nullptr};
  blend(in, splats, state, out, stream);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  const Tensor nothing = at::empty({0}, bytes);
  return {color, alpha, depth, keep_state ? splat_bytes : nothing, keep_state ? buffer : nothing,
          counts};
}

std::tuple<Tensor, Tensor, Tensor> blend_shared_cuda(const Tensor& means2d, const Tensor& conics,
                                                     const Tensor& opacities, const Tensor& colors,
                                                     const Tensor& depths, const Tensor& radii,
                                                     const OptionalTensor& backgrounds,
                                                     const Tensor& lists, at::IntArrayRef set_sizes,
                                                     int64_t width, int64_t height,
                                                     int64_t depth_mode) {
  const char* op = "blend_shared";
  const BlendTensors t = blend_tensors(op, means2d, conics, opacities, colors, depths, radii,
                                       backgrounds, set_sizes, width, height, depth_mode);
  check(op, "lists", lists, {kAny}, means2d.device(), at::kByte);
  const CUDAGuard guard(means2d.device());
  const cudaStream_t stream = getCurrentCUDAStream();
  BlendInputs in = blend_inputs(op, t, set_sizes, width, height, depth_mode);
  in.capacity = capacity_of(in, lists.size(0));
  TORCH_CHECK(in.capacity > 0 && state_bytes(in, true) == lists.size(0), op,
              ": lists must come from a blend of as many sets, cameras, Gaussians, pixels and ",
              "channels that kept its state");
  const auto options = means2d.options(), bytes = options.dtype(at::kByte);
  Tensor splat_bytes = at::empty({splats_bytes(in)}, bytes);
  const Splats splats = splats_view(in, splat_bytes.data_ptr());
  pack(in, splats, nullptr, stream);
  BlendState state = state_view(in, true, lists.data_ptr());
  state.chunks = nullptr;  // no way back is kept
  const int64_t S = in.num_sets, C = in.num_cameras;
  Tensor color = at::empty({S, C, height, width, in.channels}, options),
         alpha = at::empty({S, C, height, width}, options),
         depth = depth_mode ? at::empty({S, C, height, width}, options) : at::empty({0}, options);
  const BlendOutputs out{color.data_ptr<float>(), alpha.data_ptr<float>(),
                         depth_mode ? depth.data_ptr<float>() : nullptr};
  blend(in, splats, state, out, stream);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {color, alpha, depth};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> blend_backward_cuda(
    const Tensor& v_color, const OptionalTensor& v_alpha, const OptionalTensor& v_depth,
    const Tensor& splats, const Tensor& state, const Tensor& means2d, const Tensor& conics,
    const Tensor& opacities, const Tensor& colors, const Tensor& depths, const Tensor& radii,
    const OptionalTensor& backgrounds, at::IntArrayRef set_sizes, int64_t width, int64_t height,
    int64_t depth_mode, bool geometry_grad, bool absolute) {
  const char* op = "blend_backward";
  const BlendTensors t = blend_tensors(op, means2d, conics, opacities, colors, depths, radii,
                                       backgrounds, set_sizes, width, height, depth_mode);
  const at::Device device = means2d.device();
  const CUDAGuard guard(device);
  BlendInputs in = blend_inputs(op, t, set_sizes, width, height, depth_mode);
  const int64_t S = in.num_sets, C = in.num_cameras, M = in.num_gaussians, D = in.channels;
  check(op, "v_color", v_color, {S, C, height, width, D}, device);
  if (v_alpha) check(op, "v_alpha", *v_alpha, {S, C, height, width}, device);
  if (v_depth) check(op, "v_depth", *v_depth, {S, C, height, width}, device);
  check(op, "state", state, {kAny}, device, at::kByte);
  check(op, "splats", splats, {kAny}, device, at::kByte);
  TORCH_CHECK(state.size(0) > 0, op, ": the blend was called without keep_state");
  in.capacity = capacity_of(in, state.size(0));
  const auto options = means2d.options();
  const bool g = geometry_grad;
  const auto make = [&](bool wanted, at::IntArrayRef shape) {
    return at::empty(wanted ? shape : at::IntArrayRef{0}, options);
  };
  Tensor v_means2d = make(g, {C, M, 2}), v_conics = make(g, {C, M, 3}),
         v_opacities = make(g, {C, M}), v_depths = make(g && depth_mode, {C, M}),
         v_absolute = make(g && absolute, {C, M, 2}), v_colors = make(true, {C, M, D});
  const Tensor color = v_color.contiguous();
  const OptionalTensor alpha = contiguous(v_alpha), depth = contiguous(v_depth);
  Tensor slots = at::empty({in.capacity, in.slot_width()}, options);
  BlendGradients grads{};
  grads.color = color.const_data_ptr<float>();
  grads.alpha = data(alpha);
  grads.depth = depth_mode ? data(depth) : nullptr;
  grads.geometry = g;
  grads.absolute = g && absolute;
  grads.slots = slots.data_ptr<float>();
  grads.v_means2d = v_means2d.data_ptr<float>();
  grads.v_conics = v_conics.data_ptr<float>();
  grads.v_opacities = v_opacities.data_ptr<float>();
  grads.v_colors = v_colors.data_ptr<float>();
  grads.v_depths = g && depth_mode ? v_depths.data_ptr<float>() : nullptr;
  grads.v_absolute = v_absolute.data_ptr<float>();
  blend_backward(in, splats_view(in, splats.data_ptr()), state_view(in, true, state.data_ptr()),
                 grads, getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  if (colors.size(0) == 1 && C > 1) v_colors = at::sum(v_colors, 0, /*keepdim=*/true);
  return {v_means2d, v_conics, v_opacities, v_colors, v_depths, v_absolute};
}

}  // namespace
}  // namespace raster::cuda

TORCH_LIBRARY_IMPL(twinsplat_raster, CUDA, m) {
  m.impl("project", &raster::cuda::project_cuda);
  m.impl("project_backward", &raster::cuda::project_backward_cuda);
  m.impl("blend", &raster::cuda::blend_cuda);
  m.impl("blend_shared", &raster::cuda::blend_shared_cuda);
  m.impl("blend_backward", &raster::cuda::blend_backward_cuda);
}
