// A thread per pixel: one pass says the trust, its distance from what is wanted and the slope of
// that, another moves the logits of the photos drawn.
#include "adam.cuh"
#include "sums.cuh"
#include "trust.h"

namespace raster::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kRounds = 4;  // pixels of a thread
constexpr int kPerBlock = kThreads * kRounds;

__global__ void __launch_bounds__(kThreads) trust_kernel(const __grid_constant__ TrustTask task) {
  __shared__ double warp_sums[kWarps];
  const int photo = blockIdx.y;
  const float low = task.low[photo], span = task.span[photo];
  const float scale = task.sharpness / (float(task.num_photos) * float(task.num_pixels));
  float error = 0;
  for (int round = 0; round < kRounds; ++round) {
    const int pixel = blockIdx.x * kPerBlock + round * kThreads + threadIdx.x;
    if (pixel >= task.num_pixels) break;
    const int64_t at = int64_t(photo) * task.num_pixels + pixel;
    const float excess = __fdiv_rn(__fsub_rn(task.residual[at], low), span);
    const float wanted = 1.0f - fminf(fmaxf(excess, 0.0f), 1.0f);
    const float trust = 1.0f / (1.0f + expf(-task.sharpness * task.logits[at]));
    const float gap = trust - wanted;
    error += fabsf(gap);
    task.trust[at] = trust;
    task.slopes[at] = (float(gap > 0) - float(gap < 0)) * trust * (1.0f - trust) * scale;
  }
  const double total = sum_over_block(double(error), warp_sums);
  if (threadIdx.x == 0) task.errors[blockIdx.y * gridDim.x + blockIdx.x] = total;
}

__device__ bool is_frozen(const TrustStep& step) {
  return step.frozen != nullptr && *step.frozen != 0;
}

// Whether a row was drawn before, too.
__device__ bool is_repeated(const TrustStep& step, int number) {
  for (int k = 0; k < number; ++k) {
    if (step.rows[k] == step.rows[number]) return true;
  }
  return false;
}

__global__ void __launch_bounds__(kThreads) step_kernel(const __grid_constant__ TrustStep step) {
  const int number = blockIdx.y, pixel = blockIdx.x * kThreads + threadIdx.x;
  if (pixel >= step.num_pixels || is_frozen(step) || is_repeated(step, number)) return;
  const int64_t row = step.rows[number], at = row * step.num_pixels + pixel;
  float g = 0;
  for (int k = number; k < step.num_rows; ++k) {
    if (step.rows[k] == row) g += step.gradient[int64_t(k) * step.num_pixels + pixel];
  }
  const int64_t done = step.num_updates[row], last = step.num_rates - 1;
  const float* const rate = step.rates + 2 * (done < last ? done : last);
  float p = step.logits[at], m = step.exp_avg[at], v = step.exp_avg_sq[at];
  const AdamRule rule{step.to_mean, step.beta2, step.to_square, step.eps};
  adam_update(rule, rate[0], rate[1], g, p, m, v);
  step.logits[at] = fminf(fmaxf(p, -step.most), step.most);
  step.exp_avg[at] = m, step.exp_avg_sq[at] = v;
}

// After all of `step_kernel`, which reads the counts.
__global__ void count_kernel(const __grid_constant__ TrustStep step) {
  if (is_frozen(step)) return;
  for (int k = 0; k < step.num_rows; ++k) {
    if (!is_repeated(step, k)) ++step.num_updates[step.rows[k]];
  }
}

}  // namespace

int trust_blocks(const TrustTask& task) {
  return task.num_photos * ((task.num_pixels - 1) / kPerBlock + 1);
}

void trust(const TrustTask& task, cudaStream_t stream) {
  const int blocks = trust_blocks(task);
  const dim3 grid(blocks / task.num_photos, task.num_photos);
  trust_kernel<<<grid, kThreads, 0, stream>>>(task);
  const double scale = 1.0 / (double(task.num_photos) * task.num_pixels);
  sum_kernel<<<1, kSumThreads, 0, stream>>>(task.errors, blocks, scale, task.value);
}

void trust_step(const TrustStep& step, cudaStream_t stream) {
  const dim3 grid((step.num_pixels - 1) / kThreads + 1, step.num_rows);
  step_kernel<<<grid, kThreads, 0, stream>>>(step);
  count_kernel<<<1, 1, 0, stream>>>(step);
}

}  // namespace raster::cuda
