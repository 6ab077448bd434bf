// SSIM and L1 by strips of rows, streamed downwards: a thread has one column of floats.
//
// A row that enters is blurred along by every thread for itself, from shared memory, and added to
// the eleven rows that it will be part of, which lie in registers: a blur across costs no memory at
// all. One kernel leaves the slopes of SSIM by the blurred fields and the error of each block,
// another blurs the slopes and writes the gradient; a small one adds up the value. Nothing depends
// on the order of blocks.
#include "bytes.cuh"
#include "losses.h"
#include "sums.cuh"

namespace raster::cuda {
namespace {

constexpr int kRadius = 5;  // of the window: 11 taps
constexpr int kTaps = 2 * kRadius + 1;
constexpr int kHalo = 3 * kRadius;         // floats beside a strip
constexpr int kStrip = 192;                // floats of a row and threads of a block: 64 pixels
constexpr int kSpan = kStrip + 2 * kHalo;  // floats that a row of a strip is blurred from
constexpr int kWarps = kStrip / 32;
constexpr int kFields = 4;         // s = x + y, d = x - y, s^2, d^2
constexpr int kSlopes = 3;         // d SSIM by the blurred x, x^2 + y^2, x y
constexpr int kMinRows = 4;        // of a block; ten more have to be read
constexpr int kManyRows = 64;      // where images alone fill the GPU many times
constexpr int kMaxWaves = 8;       // of blocks, more are not tried
constexpr int kBlocksPerUnit = 4;  // that a multiprocessor has registers for
constexpr float kC1 = 0.01f * 0.01f;
constexpr float kC2 = 0.03f * 0.03f;

// exp(-k^2 / (2 1.5^2)) for k = 0..5, divided by the sum over k = -5..5.
__device__ constexpr float window(int k) {
  constexpr float kWindow[kRadius + 1] = {0.26601172486179436f,  0.21300553771125369f,
                                          0.10936068950970002f,  0.03600077212843083f,
                                          0.007598758135239185f, 0.00102838008447911f};
  return kWindow[k < 0 ? -k : k];
}

// One picture of one photo.
struct Image {
  int photo;
  const float *color, *gradient_weight, *value_weight;
  int64_t before;  // values of the pictures before

  __device__ Image(const Photometric& task, int number) {
    const int picture = number / task.num_photos;
    photo = number - picture * task.num_photos;
    color = task.colors[picture];
    gradient_weight = task.gradient_weights[picture];
    value_weight = task.value_weights[picture];
    before = picture * task.num_values();
  }
};

__device__ int64_t all_values(const Photometric& task) {
  return task.num_pictures * task.num_values();
}

// A column of floats of a photo, and where it begins.
struct Column {
  bool exists;
  int first, first_pixel;  // in the top row, counted over all photos

  __device__ Column(const Photometric& task, int photo, int column)
      : exists(column >= 0 && column < task.floats()),
        first(photo * task.height * task.floats() + column),
        first_pixel(photo * task.height * task.width + column / 3) {}

  __device__ bool reaches(const Photometric& task, int row) const {
    return exists && row >= 0 && row < task.height;
  }

  __device__ int at(const Photometric& task, int row) const { return first + row * task.floats(); }

  __device__ int pixel(const Photometric& task, int row) const {
    return first_pixel + row * task.width;
  }
};

struct Pair {
  float x, y;  // colour and target
};

// The nearer end of a composite is its base, as on the CPU.
__device__ Pair read_pair(const Photometric& task, const Image& image, const Column& column,
                          int row) {
  if (!column.reaches(task, row)) return {0, 0};
  const int at = column.at(task, row);
  const float x = image.color[at];
  const float y = task.target != nullptr ? task.target[at] : fraction(task.target_bytes[at]);
  if (!task.composite) return {x, y};
  const float w = image.gradient_weight[column.pixel(task, row)];
  return {x, w < 0.5f ? x + w * (y - x) : y - (1 - w) * (y - x)};
}

__device__ float weight_at(const float* weights, const Photometric& task, const Column& column,
                           int row) {
  return weights == nullptr ? 1.0f : weights[column.pixel(task, row)];
}

// Adds a row to the sums of the rows around it. sums[k] belongs to the row that is complete after
// k more; sums[0] is complete.
__device__ void enter(float (&sums)[kTaps], float blurred) {
#pragma unroll
  for (int k = 0; k + 1 < kTaps; ++k) sums[k] = window(k - kRadius) * blurred + sums[k + 1];
  sums[kTaps - 1] = window(kRadius) * blurred;
}

struct Similarity {
  float ssim;
  float slopes[kSlopes];
};

// SSIM from the blurred sum, difference, and their squares: s^2 + d^2 = 2 (x^2 + y^2) and
// s^2 - d^2 = 4 x y, of means and of squares alike.
__device__ Similarity compare(float sum, float difference, float sum2, float difference2) {
  const float s2 = sum * sum, d2 = difference * difference;
  const float var_s = sum2 - s2, var_d = difference2 - d2;
  const float a1 = 0.5f * (s2 - d2) + kC1, b1 = 0.5f * (s2 + d2) + kC1;
  const float a2 = 0.5f * (var_s - var_d) + kC2, b2 = 0.5f * (var_s + var_d) + kC2;
  const float scale = __fdividef(1.0f, b1 * b2), ssim = a1 * a2 * scale;
  const float two_mx = sum + difference, two_my = sum - difference;
  // Means and covariances hold the blurred x, too.
  return {ssim,
          {(two_my * (a2 - a1) + two_mx * ssim * (b1 - b2)) * scale, -ssim * b1 * scale,
           2 * a1 * scale}};
}

// With a map: only that. Without: the block's error, and the slopes where a gradient is wanted.
template <bool kMap>
__global__ void __launch_bounds__(kStrip, kBlocksPerUnit)
    compare_kernel(const __grid_constant__ Photometric task, int rows, float* map) {
  __shared__ float2 spans[2][kSpan];  // sum and difference of colour and target
  __shared__ float similarities[kStrip];
  __shared__ double warp_sums[kWarps];
  const int thread = threadIdx.x, number = blockIdx.x * kStrip + thread;
  const Image image(task, blockIdx.z);
  const int begin = blockIdx.y * rows, end = min(begin + rows, task.height);
  const Column column(task, image.photo, number);
  // A span begins kHalo floats before the strip; its last 2 kHalo floats are read as second ones.
  const Column left(task, image.photo, number - kHalo);
  const Column right(task, image.photo, number - kHalo + kStrip);
  const bool has_second = thread < 2 * kHalo;

  float sums[kFields][kTaps] = {};
  float absolute = 0, similarity = 0;
  float2* span = spans[0];
  Pair own = read_pair(task, image, left, begin - kRadius), second{0, 0};
  if (has_second) second = read_pair(task, image, right, begin - kRadius);
  for (int row = begin - kRadius; row < end + kRadius; ++row) {
    // Two spans in turn: one barrier a row is enough.
    span = span == spans[0] ? spans[1] : spans[0];
    span[thread] = {own.x + own.y, own.x - own.y};
    if (has_second) span[kStrip + thread] = {second.x + second.y, second.x - second.y};
    __syncthreads();
    if (row + 1 < end + kRadius) {
      own = read_pair(task, image, left, row + 1);
      if (has_second) second = read_pair(task, image, right, row + 1);
    }

    const float2* around = span + kHalo + thread;
    const float2 here = around[0];
    float blurred[kFields] = {window(0) * here.x, window(0) * here.y, window(0) * (here.x * here.x),
                              window(0) * (here.y * here.y)};
#pragma unroll
    for (int k = 1; k <= kRadius; ++k) {
      const float2 a = around[-3 * k], b = around[3 * k];
      blurred[0] += window(k) * (a.x + b.x);
      blurred[1] += window(k) * (a.y + b.y);
      blurred[2] += window(k) * (a.x * a.x + b.x * b.x);
      blurred[3] += window(k) * (a.y * a.y + b.y * b.y);
    }
#pragma unroll
    for (int i = 0; i < kFields; ++i) enter(sums[i], blurred[i]);
    if (!kMap && column.exists && row >= begin && row < end) {
      absolute += weight_at(image.value_weight, task, column, row) * fabsf(here.y);
    }

    const int middle = row - kRadius;
    if (middle < begin) continue;
    const Similarity s = compare(sums[0][0], sums[1][0], sums[2][0], sums[3][0]);
    if (kMap) {
      similarities[thread] = s.ssim;
      __syncthreads();
      if (column.exists && thread % 3 == 0) {
        const float* channels = similarities + thread;
        map[column.pixel(task, middle)] = (channels[0] + channels[1] + channels[2]) / 3;
      }
    } else if (column.exists) {
      const float w = weight_at(image.value_weight, task, column, middle);
      similarity += w * (1 - s.ssim);
      if (task.slopes == nullptr) continue;
      float* to = task.slopes + image.before + column.at(task, middle);
#pragma unroll
      for (int i = 0; i < kSlopes; ++i) to[i * all_values(task)] = w * s.slopes[i];
    }
  }
  if (kMap) return;
  const double lambda = task.lambda_dssim;
  const double error = (1 - lambda) * absolute + lambda * similarity;
  const double total = sum_over_block(error, warp_sums);
  if (thread == 0) {
    task.errors[(blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x] = total;
  }
}

struct Slopes {
  float of[kSlopes];
};

__device__ Slopes read_slopes(const Photometric& task, const Image& image, const Column& column,
                              int row) {
  if (!column.reaches(task, row)) return {};
  const float* from = task.slopes + image.before + column.at(task, row);
  return {from[0], from[all_values(task)], from[2 * all_values(task)]};
}

// `absolute` and `similarity` are the shares of both terms in the mean over all values.
__global__ void __launch_bounds__(kStrip, kBlocksPerUnit)
    gradient_kernel(const __grid_constant__ Photometric task, int rows, float absolute,
                    float similarity) {
  __shared__ float spans[2][kSlopes][kSpan];
  const int thread = threadIdx.x, number = blockIdx.x * kStrip + thread;
  const Image image(task, blockIdx.z);
  const int begin = blockIdx.y * rows, end = min(begin + rows, task.height);
  const Column column(task, image.photo, number);
  const Column left(task, image.photo, number - kHalo);
  const Column right(task, image.photo, number - kHalo + kStrip);
  const bool has_second = thread < 2 * kHalo;

  float sums[kSlopes][kTaps] = {};
  float (*span)[kSpan] = spans[0];
  Slopes own = read_slopes(task, image, left, begin - kRadius), second{};
  if (has_second) second = read_slopes(task, image, right, begin - kRadius);
  for (int row = begin - kRadius; row < end + kRadius; ++row) {
    span = span == spans[0] ? spans[1] : spans[0];
#pragma unroll
    for (int i = 0; i < kSlopes; ++i) {
      span[i][thread] = own.of[i];
      if (has_second) span[i][kStrip + thread] = second.of[i];
    }
    __syncthreads();
    if (row + 1 < end + kRadius) {
      own = read_slopes(task, image, left, row + 1);
      if (has_second) second = read_slopes(task, image, right, row + 1);
    }

#pragma unroll
    for (int i = 0; i < kSlopes; ++i) {
      const float* around = span[i] + kHalo + thread;
      float blurred = window(0) * around[0];
#pragma unroll
      for (int k = 1; k <= kRadius; ++k) {
        blurred += window(k) * (around[-3 * k] + around[3 * k]);
      }
      enter(sums[i], blurred);
    }

    const int middle = row - kRadius;
    if (middle < begin || !column.exists) continue;
    const Pair pair = read_pair(task, image, column, middle);
    const float gap = pair.x - pair.y;
    const float sign = float(gap > 0) - float(gap < 0);
    const float w = weight_at(image.value_weight, task, column, middle);
    const float by_similarity = sums[0][0] + 2 * pair.x * sums[1][0] + pair.y * sums[2][0];
    task.gradient[image.before + column.at(task, middle)] =
        (absolute * w * sign - similarity * by_similarity) *
        weight_at(image.gradient_weight, task, column, middle);
  }
}

struct Grid {
  dim3 blocks;
  int rows;

  int count() const { return int(blocks.x * blocks.y * blocks.z); }
};

int multiprocessors() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

// Blocks of the height with which waves of as many as run at once are done soonest: a block that
// runs alone at the end costs as much as a full wave.
Grid grid_of(const Photometric& task) {
  Grid best{dim3((task.floats() + kStrip - 1) / kStrip, 1, task.num_images()), task.height};
  const int columns = int(best.blocks.x * best.blocks.z);
  const int at_once = kBlocksPerUnit * multiprocessors();
  int64_t least = INT64_MAX;
  for (int waves = 1; waves <= kMaxWaves; ++waves) {
    const int strips = waves * at_once / columns;
    if (strips == 0) continue;
    const int whole = (task.height + strips - 1) / strips;
    const int rows = whole > kMinRows ? whole : kMinRows;
    const int64_t time = int64_t(waves) * (rows + 2 * kRadius);
    if (time < least) least = time, best.rows = rows;
  }
  if (least == INT64_MAX) best.rows = kManyRows;
  best.blocks.y = (task.height + best.rows - 1) / best.rows;
  return best;
}

}  // namespace

int photometric_blocks(const Photometric& task) { return grid_of(task).count(); }

void photometric(const Photometric& task, cudaStream_t stream) {
  const Grid grid = grid_of(task);
  const double scale = 1.0 / double(task.num_values());
  compare_kernel<false><<<grid.blocks, kStrip, 0, stream>>>(task, grid.rows, nullptr);
  sum_kernel<<<task.num_pictures, kSumThreads, 0, stream>>>(
      task.errors, grid.count() / task.num_pictures, scale, task.values);
  if (task.gradient == nullptr) return;
  const float lambda = task.lambda_dssim;
  gradient_kernel<<<grid.blocks, kStrip, 0, stream>>>(task, grid.rows, (1 - lambda) * float(scale),
                                                      lambda * float(scale));
}

void ssim_map(const Photometric& task, float* map, cudaStream_t stream) {
  const Grid grid = grid_of(task);
  compare_kernel<true><<<grid.blocks, kStrip, 0, stream>>>(task, grid.rows, map);
}

}  // namespace raster::cuda
