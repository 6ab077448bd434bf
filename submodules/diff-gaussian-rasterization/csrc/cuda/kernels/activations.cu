// One thread per Gaussian. Its three floats lie in lines that its neighbours read as well.
#include "activations.h"

namespace raster::cuda {
namespace {

constexpr int kThreads = 256;

// Never 0, so that ratios of scales stay finite; as on the CPU.
__device__ float exponential(float x) { return expf(x < -87.3f ? -87.3f : x); }

// sqrt(s^2 + f^2), also where the squares underflow.
__device__ float widened(float s, float f) {
  const float root = sqrtf(s * s + f * f);
  return root < s ? s : root;
}

struct Gaussian {
  float scales[3];  // without the filter
  float filtered[3];
  float ratio;                // of the volumes
  float opacity, complement;  // without the filter; 1 - opacity, exact near 1
};

__device__ Gaussian gaussian(const Activate& task, int64_t i) {
  Gaussian g;
  const float f = task.filter_3d == nullptr ? 0.0f : task.filter_3d[i];
  g.ratio = 1;
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    g.scales[k] = g.filtered[k] = exponential(task.log_scales[3 * i + k]);
    if (task.filter_3d == nullptr) continue;
    g.filtered[k] = widened(g.scales[k], f);
    g.ratio *= g.scales[k] / g.filtered[k];
  }
  const float x = task.opacity_logits[i];
  const float t = exponential(x < 0 ? x : -x), s = 1 / (1 + t);
  g.opacity = x < 0 ? t * s : s;
  g.complement = x < 0 ? s : t * s;
  return g;
}

__device__ int64_t index() { return int64_t(blockIdx.x) * kThreads + threadIdx.x; }

__global__ void __launch_bounds__(kThreads) forward_kernel(const Activate task, Activated out) {
  const int64_t i = index();
  if (i >= task.num_gaussians) return;
  const Gaussian g = gaussian(task, i);
#pragma unroll
  for (int k = 0; k < 3; ++k) out.scales[3 * i + k] = g.filtered[k];
  out.opacities[i] = g.opacity * g.ratio;
}

__global__ void __launch_bounds__(kThreads)
    backward_kernel(const Activate task, const ActivateGradients gradients) {
  const int64_t i = index();
  if (i >= task.num_gaussians) return;
  const Gaussian g = gaussian(task, i);
  const float f = task.filter_3d == nullptr ? 0.0f : task.filter_3d[i];
  const float by_log_opacity = gradients.opacities[i] * g.opacity * g.ratio;
  gradients.opacity_logits[i] = by_log_opacity * g.complement;
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    const float shown = g.scales[k] / g.filtered[k], hidden = f / g.filtered[k];
    gradients.log_scales[3 * i + k] =
        gradients.scales[3 * i + k] * shown * g.scales[k] + by_log_opacity * hidden * hidden;
  }
}

unsigned blocks(const Activate& task) {
  return unsigned((task.num_gaussians + kThreads - 1) / kThreads);
}

}  // namespace

void activate(const Activate& task, const Activated& out, cudaStream_t stream) {
  if (task.num_gaussians > 0) forward_kernel<<<blocks(task), kThreads, 0, stream>>>(task, out);
}

void activate_backward(const Activate& task, const ActivateGradients& gradients,
                       cudaStream_t stream) {
  if (task.num_gaussians > 0) {
    backward_kernel<<<blocks(task), kThreads, 0, stream>>>(task, gradients);
  }
}

}  // namespace raster::cuda
