// One launch for all tensors: a block takes 1024 floats of one of them, a thread four.
//
// Bound by memory: 28 bytes a float, 36 with averages. Every operation is written out, so that the
// wide and the narrow way round alike.
#include "adam.cuh"
#include "optim.h"

namespace raster::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWide = 4;  // floats of one access
constexpr int kFloats = kThreads * kWide;

struct Launch {
  AdamStep step;
  int first_block[kMaxAdamTensors + 1];
};

struct Rate {
  float step_size, root_scale;
};

__device__ void update(const AdamStep& step, Rate rate, float g, float& p, float& m, float& v) {
  const AdamRule rule{step.to_mean, step.beta2, step.to_square, step.eps};
  adam_update(rule, rate.step_size, rate.root_scale, g, p, m, v);
}

// From the nearer end, as torch.lerp: a decay of 0 gives the parameter.
__device__ float moved(const AdamStep& step, float average, float p) {
  const float gap = __fsub_rn(p, average);
  return step.to_average < 0.5f ? __fmaf_rn(step.to_average, gap, average)
                                : __fmaf_rn(-step.decay, gap, p);
}

// Whether rows are updated, by floats of the block.
struct Visible {
  const int32_t* entries;  // of the rows from the block's first on, or null
  uint32_t row, skipped;   // floats per row, and of the first row before the block

  __device__ Visible(const AdamStep& step, const AdamTensor& t, int64_t begin)
      : entries(nullptr), row(t.row), skipped(0) {
    if (step.visible == nullptr) return;
    const int64_t first = begin / row;
    entries = step.visible + first;
    skipped = uint32_t(begin - first * row);
  }

  __device__ bool operator()(int i) const {
    return entries == nullptr || entries[(skipped + i) / row] > 0;
  }
};

__device__ void load(const float* from, float (&to)[kWide]) {
  const float4 v = *reinterpret_cast<const float4*>(from);
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

__device__ void store(float* to, const float (&v)[kWide]) {
  *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
}

// Four floats of which the first is number `i` of the block and `at` of the tensor.
__device__ void step_wide(const AdamStep& step, const AdamTensor& t, Rate rate,
                          const Visible& visible, int i, int64_t at) {
  bool learns[kWide], any = false;
#pragma unroll
  for (int k = 0; k < kWide; ++k) {
    learns[k] = visible(i + k);
    any = any || learns[k];
  }
  if (!any && t.average == nullptr) return;
  float p[kWide], g[kWide], m[kWide], v[kWide], average[kWide];
  load(t.parameter + at, p);
  if (any) load(t.gradient + at, g), load(t.mean + at, m), load(t.square + at, v);
  if (t.average != nullptr) load(t.average + at, average);
  if (any) {
#pragma unroll
    for (int k = 0; k < kWide; ++k) {
      if (learns[k]) update(step, rate, g[k], p[k], m[k], v[k]);
    }
    store(t.parameter + at, p), store(t.mean + at, m), store(t.square + at, v);
  }
  if (t.average != nullptr) {
#pragma unroll
    for (int k = 0; k < kWide; ++k) average[k] = moved(step, average[k], p[k]);
    store(t.average + at, average);
  }
}

__device__ void step_narrow(const AdamStep& step, const AdamTensor& t, Rate rate,
                            const Visible& visible, int i, int64_t at) {
  float p = t.parameter[at];
  if (visible(i)) {
    float m = t.mean[at], v = t.square[at];
    update(step, rate, t.gradient[at], p, m, v);
    t.parameter[at] = p, t.mean[at] = m, t.square[at] = v;
  }
  if (t.average != nullptr) t.average[at] = moved(step, t.average[at], p);
}

__device__ bool is_aligned(const AdamTensor& t) {
  const auto bits = [](const float* p) { return reinterpret_cast<uintptr_t>(p); };
  const uintptr_t all =
      bits(t.parameter) | bits(t.gradient) | bits(t.mean) | bits(t.square) | bits(t.average);
  return all % sizeof(float4) == 0;
}

__global__ void __launch_bounds__(kThreads) adam_kernel(const __grid_constant__ Launch launch) {
  const AdamStep& step = launch.step;
  if (step.frozen != nullptr && *step.frozen != 0) return;
  int index = 0;
  while (int(blockIdx.x) >= launch.first_block[index + 1]) ++index;
  const AdamTensor& t = step.tensors[index];
  const Rate rate = step.rates == nullptr ? Rate{t.step_size, t.root_scale}
                                          : Rate{step.rates[2 * index], step.rates[2 * index + 1]};
  const int64_t begin = int64_t(blockIdx.x - launch.first_block[index]) * kFloats;
  const int64_t left = t.count - begin;
  const Visible visible(step, t, begin);
  if (left >= kFloats && is_aligned(t)) {
    const int i = threadIdx.x * kWide;
    step_wide(step, t, rate, visible, i, begin + i);
  } else {
    const int count = left < kFloats ? int(left) : kFloats;
    for (int i = threadIdx.x; i < count; i += kThreads) {
      step_narrow(step, t, rate, visible, i, begin + i);
    }
  }
}

}  // namespace

void adam_step(const AdamStep& step, cudaStream_t stream) {
  Launch launch{step, {}};
  for (int i = 0; i < step.num_tensors; ++i) {
    const int64_t blocks = (step.tensors[i].count + kFloats - 1) / kFloats;
    launch.first_block[i + 1] = launch.first_block[i] + int(blocks);
  }
  const int blocks = launch.first_block[step.num_tensors];
  if (blocks > 0) adam_kernel<<<blocks, kThreads, 0, stream>>>(launch);
}

}  // namespace raster::cuda
