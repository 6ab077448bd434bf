// One kernel adds up what lies in each segment, another clears the trust of those that are taken
// out. A warp walks along its entries and keeps the sums of the segment that it is in, so that few
// atomic additions are left; they are of integers, whose order changes nothing.
#include "segments.h"

namespace raster::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRounds = 8;  // entries of a thread
constexpr int kPerWarp = 32 * kRounds;
constexpr int kPerBlock = kThreads * kRounds;
constexpr unsigned kAll = 0xffffffffu;
constexpr int kNone = -1;

// High pixels, feature residual and distrust of each segment, then the high pixels of the photo.
__device__ int64_t* sums_of(const SegmentTask& task, int photo) {
  return task.sums + int64_t(photo) * (3 * int64_t(task.num_segments) + 1);
}

__device__ int64_t& high_pixels(const SegmentTask& task, int photo) {
  return sums_of(task, photo)[3 * int64_t(task.num_segments)];
}

__device__ void add(int64_t* to, int64_t value) {
  atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
}

// One photo's residuals and thresholds.
struct Photo {
  const float *color, *feature;
  float high_color, high_feature, usual, span;

  __device__ Photo(const SegmentTask& task, int photo)
      : color(task.by_color + int64_t(photo) * task.num_pixels),
        feature(task.by_feature + int64_t(photo) * task.num_pixels),
        high_color(task.high_color[photo]),
        high_feature(task.high_feature[photo]),
        usual(task.usual[photo]),
        span(task.span) {}

  __device__ bool is_high(int pixel) const {
    return color[pixel] > high_color && feature[pixel] > high_feature;
  }
};

// What a thread has of the segment that its warp is in. A residual is 2 at most, so that 32 bits
// hold what a warp adds up between two calls of `leave`.
struct Running {
  int segment = kNone;
  int high = 0, feature = 0, distrust = 0;

  __device__ void enter(const Photo& photo, int pixel) {
    const float residual = photo.feature[pixel];
    const float excess = __fdiv_rn(__fsub_rn(residual, photo.usual), photo.span);
    high += photo.is_high(pixel);
    feature += int(residual * kSegmentUnit);
    distrust += int(fminf(fmaxf(excess, 0.0f), 1.0f) * kSegmentUnit);
  }

  __device__ void leave(const SegmentTask& task, int photo) {
    if (segment != kNone) {
      high = __reduce_add_sync(kAll, high);
      feature = __reduce_add_sync(kAll, feature);
      distrust = __reduce_add_sync(kAll, distrust);
      if (threadIdx.x % 32 == 0) add_to(task, photo, segment);
    }
    segment = kNone, high = feature = distrust = 0;
  }

  __device__ void add_to(const SegmentTask& task, int photo, int to) const {
    int64_t* const sums = sums_of(task, photo) + 3 * int64_t(to);
    if (high != 0) add(sums, high);
    if (feature != 0) add(sums + 1, feature);
    if (distrust != 0) add(sums + 2, distrust);
  }
};

__global__ void __launch_bounds__(kThreads) sum_kernel(const __grid_constant__ SegmentTask task) {
  const int photo = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int begin = blockIdx.x * kPerBlock + warp * kPerWarp + lane;
  const Photo seen(task, photo);
  const int64_t row = task.rows[photo] * task.num_entries;
  Running running;
  int high = 0;
  for (int round = 0; round < kRounds; ++round) {
    const int i = begin + 32 * round;
    if (i < task.num_pixels) {
      high += seen.is_high(i);
      task.trust[int64_t(photo) * task.num_pixels + i] = 1;
    }
    const bool is_entry = i < task.num_entries;
    const int own = is_entry ? task.segments[row + i] : task.num_segments - 1;
    const int segment = own == task.num_segments - 1 ? kNone : own;
    const int first = __shfl_sync(kAll, segment, 0);
    if (__all_sync(kAll, segment == first)) {
      if (first != running.segment) {
        running.leave(task, photo);
        running.segment = first;
      }
      if (first != kNone) running.enter(seen, task.pixels[row + i]);
    } else {
      running.leave(task, photo);
      if (segment != kNone) {
        Running alone;
        alone.enter(seen, task.pixels[row + i]);
        alone.add_to(task, photo, segment);
      }
    }
  }
  running.leave(task, photo);
  __shared__ int block_high;
  if (threadIdx.x == 0) block_high = 0;
  __syncthreads();
  high = __reduce_add_sync(kAll, high);
  if (lane == 0 && high != 0) atomicAdd(&block_high, high);
  __syncthreads();
  if (threadIdx.x == 0 && block_high != 0) add(&high_pixels(task, photo), block_high);
}

__device__ bool is_taken_out(const SegmentTask& task, int photo, int64_t row, int segment) {
  const int64_t* const sums = sums_of(task, photo) + 3 * int64_t(segment);
  const double area = task.areas[row * task.num_segments + segment];
  const double high = double(sums[0]) * kSegmentUnit / area;
  const double usually = double(high_pixels(task, photo)) / task.num_pixels;
  const bool differs = double(sums[1]) / area > task.least_feature;
  return (high > usually && differs) || double(sums[2]) / area > task.most_distrust;
}

__global__ void __launch_bounds__(kThreads) clear_kernel(const __grid_constant__ SegmentTask task) {
  const int photo = blockIdx.y, i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= task.num_entries) return;
  const int64_t row = task.rows[photo];
  const int segment = task.segments[row * task.num_entries + i];
  if (segment == task.num_segments - 1 || !is_taken_out(task, photo, row, segment)) return;
  const int pixel = task.pixels[row * task.num_entries + i];
  task.trust[int64_t(photo) * task.num_pixels + pixel] = 0;
}

unsigned blocks_for(int count, int per_block) { return unsigned((count - 1) / per_block + 1); }

}  // namespace

int64_t segment_sums(const SegmentTask& task) {
  return task.num_photos * (3 * int64_t(task.num_segments) + 1);
}

void segment_trust(const SegmentTask& task, cudaStream_t stream) {
  cudaMemsetAsync(task.sums, 0, sizeof(int64_t) * segment_sums(task), stream);
  const int most = task.num_entries > task.num_pixels ? task.num_entries : task.num_pixels;
  const unsigned photos = unsigned(task.num_photos);
  sum_kernel<<<dim3(blocks_for(most, kPerBlock), photos), kThreads, 0, stream>>>(task);
  clear_kernel<<<dim3(blocks_for(task.num_entries, kThreads), photos), kThreads, 0, stream>>>(task);
}

}  // namespace raster::cuda
