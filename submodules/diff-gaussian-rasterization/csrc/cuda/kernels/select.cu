// Radix selection: three passes find 11, 11 and 10 bits of the value sought, the highest first.
//
// A pass counts, among the values that share the digits known so far, how many have each next
// digit. Every block counts its part in shared memory and adds it to the row's histogram; the block
// that comes last looks up in which bin the rank falls. Counts are integers, so no order matters.
#include "select.h"

namespace raster::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kBatch = 4;         // values that a thread asks for at a time
constexpr int kPerBlock = 4096;   // values of a block, as long as there are few
constexpr int kMaxBlocks = 1024;  // of a row
constexpr unsigned kAll = 0xffffffffu;

__device__ constexpr int bits_of(int pass) { return pass == 2 ? 10 : 11; }
__device__ constexpr int shift_of(int pass) { return pass == 0 ? 21 : pass == 1 ? 10 : 0; }

// Unsigned order of the keys is the order of the floats.
__device__ uint32_t key_of(float value) {
  const uint32_t bits = __float_as_uint(value);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

__device__ float value_of(uint32_t key) {
  return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

// Values of one bin, and there are many such, are added by one of their threads.
__device__ void count(uint32_t* histogram, bool takes_part, uint32_t bin) {
  const unsigned active = __ballot_sync(kAll, takes_part);
  if (!takes_part) return;
  const unsigned same = __match_any_sync(active, bin);
  if (int(threadIdx.x % 32) == __ffs(same) - 1) atomicAdd(&histogram[bin], uint32_t(__popc(same)));
}

// Sum of `own` over the threads before this one.
__device__ uint32_t sum_before(uint32_t own, uint32_t (&warp_sums)[kWarps]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint32_t sum = own;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t other = __shfl_up_sync(kAll, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) warp_sums[warp] = sum;
  __syncthreads();
  for (int w = 0; w < warp; ++w) sum += warp_sums[w];
  return sum - own;
}

template <int kPass>
__global__ void __launch_bounds__(kThreads) select_kernel(const Select task) {
  constexpr int kBits = bits_of(kPass), kShift = shift_of(kPass), kBins = 1 << kBits;
  constexpr int kAbove = kPass == 0 ? 0 : kShift + kBits;  // where the known digits begin
  constexpr int kOwn = kBins / kThreads;  // bins that a thread looks through in the end
  __shared__ uint32_t histogram[kBins];
  __shared__ uint32_t warp_sums[kWarps];
  __shared__ bool is_last;
  const int place = blockIdx.z * task.num_rows + blockIdx.y;
  SelectRow& row = task.rows[place];
  // Read before the last block writes what it found.
  const uint32_t known = row.key;
  uint32_t rank = kPass == 0 ? uint32_t(task.ranks[blockIdx.z]) : row.rank;
  for (int i = threadIdx.x; i < kBins; i += kThreads) histogram[i] = 0;
  __syncthreads();

  const int n = task.num_columns;
  const float* values = task.values[blockIdx.z] + int64_t(blockIdx.y) * n;
  const int64_t stride = int64_t(gridDim.x) * kThreads * kBatch;
  for (int64_t start = int64_t(blockIdx.x) * kThreads * kBatch; start < n; start += stride) {
    uint32_t keys[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int64_t i = start + j * kThreads + threadIdx.x;
      keys[j] = i < n ? key_of(values[i]) : 0;
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const bool exists = start + j * kThreads + threadIdx.x < n;
      const bool fits = kPass == 0 || keys[j] >> kAbove == known;
      count(histogram, exists && fits, keys[j] >> kShift & (kBins - 1));
    }
  }
  __syncthreads();
  uint32_t* total = row.histograms[kPass];
  for (int i = threadIdx.x; i < kBins; i += kThreads) {
    if (histogram[i] != 0) atomicAdd(&total[i], histogram[i]);
  }

  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) is_last = atomicAdd(&row.tickets[kPass], 1u) == gridDim.x - 1;
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  uint32_t counts[kOwn], own = 0;
#pragma unroll
  for (int j = 0; j < kOwn; ++j) {
    counts[j] = __ldcg(&total[threadIdx.x * kOwn + j]);
    own += counts[j];
  }
  const uint32_t before = sum_before(own, warp_sums);
  if (rank < before || rank >= before + own) return;
  rank -= before;
  uint32_t bin = threadIdx.x * kOwn;
  bool is_found = false;
#pragma unroll
  for (int j = 0; j < kOwn; ++j) {
    is_found = is_found || rank < counts[j];
    if (!is_found) rank -= counts[j], ++bin;
  }
  const uint32_t key = known << kBits | bin;
  if (kPass == kSelectPasses - 1) {
    task.results[place] = value_of(key);
  } else {
    row.key = key, row.rank = rank;
  }
}

}  // namespace

void select(const Select& task, cudaStream_t stream) {
  if (task.num_rows == 0) return;
  cudaMemsetAsync(task.rows, 0, sizeof(SelectRow) * task.num_sources * task.num_rows, stream);
  const int blocks = (task.num_columns - 1) / kPerBlock + 1;
  const dim3 grid(blocks < kMaxBlocks ? blocks : kMaxBlocks, task.num_rows, task.num_sources);
  select_kernel<0><<<grid, kThreads, 0, stream>>>(task);
  select_kernel<1><<<grid, kThreads, 0, stream>>>(task);
  select_kernel<2><<<grid, kThreads, 0, stream>>>(task);
}

}  // namespace raster::cuda
