// A block per patch and picture: waves down the columns, from global memory and in registers, then
// across what they leave in shared memory. A patch sees its own pixels only, so that nothing is
// multiplied by the zeros that a wave has in all other patches.
#include "bytes.cuh"
#include "residuals.h"

namespace raster::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kBlocksPerUnit = 12;  // that a multiprocessor has registers for
constexpr int kPixelThreads = 256;
constexpr int kWaves = 4;  // that a thread sums at a time: a float4
constexpr unsigned kAll = 0xffffffffu;

__device__ float photo_at(const Pictures& task, int64_t i) {
  return task.photos != nullptr ? task.photos[i] : fraction(task.photo_bytes[i]);
}

// Pixels of a side that the waves of a patch may reach.
struct Window {
  int first, count;

  __device__ Window(int patch, int num_patches, int side) {
    const int64_t before = int64_t(patch) * side / num_patches;
    const int64_t behind = (int64_t(patch + 1) * side - 1) / num_patches + 1;  // rounded up
    first = max(int(before) - 1, 0);
    count = min(int(behind) + 1, side) - first;
  }
};

__host__ __device__ int largest_window(int num_patches, int side) { return side / num_patches + 4; }

__host__ __device__ int whole_chunks(int count) { return (count + kWaves - 1) / kWaves * kWaves; }

// The waves of one patch at its window into shared memory: [window.count, padded], zeros behind.
__device__ void fetch_waves(float* own, const float* waves, int patch, int count, int padded,
                            int side, const Window& window) {
  for (int i = threadIdx.x; i < padded * window.count; i += kThreads) {
    const int wave = i / window.count, pixel = i % window.count;
    const int64_t row = int64_t(patch) * count + wave;
    own[pixel * padded + wave] = wave < count ? waves[row * side + window.first + pixel] : 0.0f;
  }
}

__device__ float warp_sum(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(kAll, value, step);
  return value;
}

__global__ void __launch_bounds__(kPixelThreads)
    color_residual_kernel(const Pictures task, float* residual) {
  const int64_t i = int64_t(blockIdx.x) * kPixelThreads + threadIdx.x;
  if (i >= task.num_pixels()) return;
  float photo[3];
#pragma unroll
  for (int c = 0; c < 3; ++c) photo[c] = photo_at(task, 3 * i + c);
  for (int p = 0; p < task.num_pictures; ++p) {
    const float* color = task.pictures[p] + 3 * i;
    const float r = fabsf(color[0] - photo[0]), g = fabsf(color[1] - photo[1]);
    residual[p * task.num_pixels() + i] = (r + g + fabsf(color[2] - photo[2])) / 3.0f;
  }
}

__global__ void __launch_bounds__(kThreads, kBlocksPerUnit)
    patch_residual_kernel(const Pictures task, const Patches filters, float* residual) {
  extern __shared__ float4 memory[];
  const int patch_x = blockIdx.x % filters.num_across, patch_y = blockIdx.x / filters.num_across;
  const int photo = blockIdx.y, picture = blockIdx.z;
  const Window x(patch_x, filters.num_across, task.width);
  const Window y(patch_y, filters.num_down, task.height);
  const int num_u = filters.count_down, num_v = filters.count_across;
  const int padded = whole_chunks(num_u);
  const int floats = 3 * x.count;                  // of a row of the window
  float* down = reinterpret_cast<float*>(memory);  // [y.count, padded]
  float* across = down + y.count * padded;         // [x.count, num_v]
  float* columns = across + x.count * num_v;       // [2, num_u, floats]
  float* waves = columns + 2 * num_u * floats;     // [2, num_u, num_v, 3]
  fetch_waves(down, filters.down, patch_y, num_u, padded, task.height, y);
  fetch_waves(across, filters.across, patch_x, num_v, num_v, task.width, x);
  __syncthreads();

  // Down the picture's columns, then the photo's.
  const int stride = 3 * task.width;
  const int corner = (photo * task.height + y.first) * stride + 3 * x.first;
  for (int i = threadIdx.x; i < 2 * floats; i += kThreads) {
    const bool is_photo = i >= floats;
    const int column = is_photo ? i - floats : i;
    const float* color = is_photo ? task.photos : task.pictures[picture];
    for (int u = 0; u < num_u; u += kWaves) {
      float4 sum = {0, 0, 0, 0};
      int at = corner + column;
#pragma unroll 4
      for (int row = 0; row < y.count; ++row, at += stride) {
        const float value = color != nullptr ? color[at] : fraction(task.photo_bytes[at]);
        const float4 weight = *reinterpret_cast<const float4*>(down + row * padded + u);
        sum.x += weight.x * value;
        sum.y += weight.y * value;
        sum.z += weight.z * value;
        sum.w += weight.w * value;
      }
      const float sums[kWaves] = {sum.x, sum.y, sum.z, sum.w};
      float* to = columns + (is_photo * num_u + u) * floats + column;
#pragma unroll
      for (int k = 0; k < kWaves; ++k) {
        if (u + k < num_u) to[k * floats] = sums[k];
      }
    }
  }
  __syncthreads();

  for (int i = threadIdx.x; i < 6 * num_u * num_v; i += kThreads) {
    const int channel = i % 3, v = i / 3 % num_v;
    const float* row = columns + i / (3 * num_v) * floats + channel;
    float sum = 0;
    for (int column = 0; column < x.count; ++column) {
      sum += across[column * num_v + v] * row[3 * column];
    }
    waves[i] = sum;
  }
  __syncthreads();

  if (threadIdx.x >= 32) return;
  float product = 0, of_picture = 0, of_photo = 0;
  const int num_waves = num_u * num_v;
  for (int i = threadIdx.x; i < 3 * num_waves; i += 32) {
    const int axis = i / num_waves, wave = i % num_waves;
    const float* a = waves + 3 * wave;
    const float* b = a + 3 * num_waves;
    float mine = 0, theirs = 0;
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      const float weight = filters.axes[3 * c + axis];
      mine += a[c] * weight;
      theirs += b[c] * weight;
    }
    mine -= filters.grey[i];
    theirs -= filters.grey[i];
    product += mine * theirs;
    of_picture += mine * mine;
    of_photo += theirs * theirs;
  }
  product = warp_sum(product), of_picture = warp_sum(of_picture), of_photo = warp_sum(of_photo);
  if (threadIdx.x != 0) return;
  constexpr float kLeast = 1e-12f;  // of a length, as in torch's normalize
  const float square = filters.floor * filters.floor;
  const float lengths =
      fmaxf(sqrtf(of_picture + square), kLeast) * fmaxf(sqrtf(of_photo + square), kLeast);
  const float one_minus = 1.0f - (product + square) / lengths;
  // Comparisons let what is no number through.
  const int64_t place = int64_t(picture) * task.num_photos + photo;
  residual[place * gridDim.x + blockIdx.x] = one_minus < 0.0f   ? 0.0f
                                             : one_minus > 2.0f ? 2.0f
                                                                : one_minus;
}

}  // namespace

void color_residual(const Pictures& task, float* residual, cudaStream_t stream) {
  const int64_t blocks = (task.num_pixels() + kPixelThreads - 1) / kPixelThreads;
  color_residual_kernel<<<unsigned(blocks), kPixelThreads, 0, stream>>>(task, residual);
}

size_t patch_residual_bytes(const Pictures& task, const Patches& filters) {
  const size_t across = largest_window(filters.num_across, task.width);
  const size_t down = largest_window(filters.num_down, task.height);
  const size_t num_u = filters.count_down, num_v = filters.count_across;
  return sizeof(float) * (whole_chunks(filters.count_down) * down + num_v * across +
                          6 * num_u * across + 6 * num_u * num_v);
}

void patch_residual(const Pictures& task, const Patches& filters, float* residual,
                    cudaStream_t stream) {
  const dim3 grid(filters.num_down * filters.num_across, task.num_photos, task.num_pictures);
  const size_t bytes = patch_residual_bytes(task, filters);
  patch_residual_kernel<<<grid, kThreads, bytes, stream>>>(task, filters, residual);
}

}  // namespace raster::cuda
