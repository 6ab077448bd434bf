// Bound by memory: each number is read once, and once more on the way back.
#include "difference.h"
#include "sums.cuh"

namespace raster::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kRounds = 8;  // numbers of a thread
constexpr int64_t kPerBlock = kThreads * kRounds;

__global__ void __launch_bounds__(kThreads)
    difference_kernel(const Difference task, double* errors) {
  __shared__ double warp_sums[kWarps];
  const int64_t begin = blockIdx.x * kPerBlock + threadIdx.x;
  float sum = 0;
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int64_t i = begin + round * kThreads;
    if (i < task.count) sum += fabsf(task.a[i] - task.b[i]);
  }
  const double total = sum_over_block(double(sum), warp_sums);
  if (threadIdx.x == 0) errors[blockIdx.x] = total;
}

__global__ void __launch_bounds__(kThreads)
    backward_kernel(const Difference task, const float* v_value, float* v_a, float* v_b) {
  const float scale = *v_value / float(task.count);
  const int64_t begin = blockIdx.x * kPerBlock + threadIdx.x;
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int64_t i = begin + round * kThreads;
    if (i >= task.count) return;
    const float gap = task.a[i] - task.b[i];
    const float slope = (float(gap > 0) - float(gap < 0)) * scale;
    if (v_a != nullptr) v_a[i] = slope;
    if (v_b != nullptr) v_b[i] = -slope;
  }
}

}  // namespace

int difference_blocks(const Difference& task) {
  return int((task.count + kPerBlock - 1) / kPerBlock);
}

void difference(const Difference& task, double* errors, float* value, cudaStream_t stream) {
  const int blocks = difference_blocks(task);
  difference_kernel<<<blocks, kThreads, 0, stream>>>(task, errors);
  sum_kernel<<<1, kSumThreads, 0, stream>>>(errors, blocks, 1.0 / double(task.count), value);
}

void difference_backward(const Difference& task, const float* v_value, float* v_a, float* v_b,
                         cudaStream_t stream) {
  backward_kernel<<<difference_blocks(task), kThreads, 0, stream>>>(task, v_value, v_a, v_b);
}

}  // namespace raster::cuda
