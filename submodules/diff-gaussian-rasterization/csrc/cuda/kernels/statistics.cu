// One thread per Gaussian; one thread alone for the books of a step.
#include "statistics.h"

namespace raster::cuda {
namespace {

constexpr int kThreads = 256;

// Length in units of half the image.
__device__ float length(const float* v, const Observe& task) {
  const float x = v[0] * task.half_width, y = v[1] * task.half_height;
  return sqrtf(x * x + y * y);
}

__global__ void __launch_bounds__(kThreads) observe_kernel(const Observe task) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= task.num_gaussians || task.radii[i] <= 0) return;
  if (task.frozen != nullptr && *task.frozen != 0) return;
  task.count[i] += 1;
  task.grad_sum[i] += length(task.v_means2d + 2 * i, task);
  if (task.v_absgrad != nullptr) task.absgrad_sum[i] += length(task.v_absgrad + 2 * i, task);
}

__global__ void watch_kernel(int32_t* guard, const int32_t* counts, int64_t capacity,
                             int32_t* frozen) {
  const int32_t pairs = counts[1], bad_row = counts[2];
  guard[0] = max(guard[0], pairs);
  if (guard[1] < 0) guard[1] = bad_row;
  if (pairs > capacity || bad_row >= 0) *frozen = 1;
}

__global__ void count_step_kernel(int32_t* guard, int32_t* frozen, const float* loss) {
  if (*frozen != 0) return;
  const bool is_good = isfinite(*loss);
  ++guard[is_good ? 2 : 3];
  if (!is_good) *frozen = 1;
}

}  // namespace

void observe(const Observe& task, cudaStream_t stream) {
  const int64_t blocks = (task.num_gaussians + kThreads - 1) / kThreads;
  if (blocks > 0) observe_kernel<<<unsigned(blocks), kThreads, 0, stream>>>(task);
}

void watch(int32_t* guard, const int32_t* counts, int64_t capacity, int32_t* frozen,
           cudaStream_t stream) {
  watch_kernel<<<1, 1, 0, stream>>>(guard, counts, capacity, frozen);
}

void count_step(int32_t* guard, int32_t* frozen, const float* loss, cudaStream_t stream) {
  count_step_kernel<<<1, 1, 0, stream>>>(guard, frozen, loss);
}

}  // namespace raster::cuda
