// Sums of doubles that are the same in every run: each block leaves one, then one block adds them.
#pragma once

namespace raster::cuda {
namespace {

constexpr int kSumThreads = 256;

// Sum over a block of kWarps warps, in thread 0.
template <int kWarps>
__device__ double sum_over_block(double sum, double (&warp_sums)[kWarps]) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(0xffffffffu, sum, step);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += warp_sums[w];
  return sum;
}

// A block per value: value[b] = scale * sum of errors[b, 0:count].
__global__ void __launch_bounds__(kSumThreads)
    sum_kernel(const double* errors, int count, double scale, float* value) {
  __shared__ double sums[kSumThreads];
  const double* const own = errors + int64_t(blockIdx.x) * count;
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += kSumThreads) sum += own[i];
  sums[threadIdx.x] = sum;
  for (int half = kSumThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) value[blockIdx.x] = float(sums[0] * scale);
}

}  // namespace
}  // namespace raster::cuda
