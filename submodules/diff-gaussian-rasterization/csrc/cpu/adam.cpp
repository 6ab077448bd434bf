#include "adam.h"

#include "isa.h"

namespace raster {
namespace {

// Numbers below 1e-38 are zero while this lives. The moments of a Gaussian that no view sees decay
// into them, and some machines compute a hundred times slower there.
class FlushTiny {
 public:
#if RASTER_X86
  FlushTiny() : before_(__builtin_ia32_stmxcsr()) {
    constexpr unsigned kResultsAndInputs = 0x8040;
    __builtin_ia32_ldmxcsr(before_ | kResultsAndInputs);
  }
  ~FlushTiny() { __builtin_ia32_ldmxcsr(before_); }

 private:
  unsigned before_;
#endif
};

RASTER_INLINE void update(const Adam& task, const AdamRate& rate, int64_t begin, int64_t end) {
  float* __restrict__ parameter = task.parameter;
  const float* __restrict__ gradient = task.gradient;
  float* __restrict__ mean = task.mean;
  float* __restrict__ square = task.square;
  for (int64_t i = begin; i < end; ++i) {
    const float g = gradient[i];
    const float m = mean[i] + rate.to_mean * (g - mean[i]);
    const float v = rate.beta2 * square[i] + rate.to_square * g * g;
    mean[i] = m;
    square[i] = v;
    parameter[i] -= rate.step_size * m / (__builtin_sqrtf(v) * rate.root_scale + rate.eps);
  }
}

RASTER_INLINE void update_visible(const Adam& task, const AdamRate& rate, int64_t begin,
                                  int64_t end) {
  for (int64_t row = begin / task.row; row * task.row < end; ++row) {
    if (task.visible[row] <= 0) continue;
    int64_t next = row + 1;  // rows that follow each other are one run
    while (next * task.row < end && task.visible[next] > 0) ++next;
    const int64_t first = row * task.row, last = next * task.row;
    update(task, rate, first < begin ? begin : first, last < end ? last : end);
    row = next - 1;
  }
}

// The arithmetic of torch.lerp: from the nearer end, so that a decay of 0 gives the parameter.
RASTER_INLINE void move_average(const Adam& task, const AdamRate& rate, int64_t begin,
                                int64_t end) {
  const float* __restrict__ parameter = task.parameter;
  float* __restrict__ average = task.average;
  if (rate.to_average < 0.5f) {
    for (int64_t i = begin; i < end; ++i) {
      average[i] += rate.to_average * (parameter[i] - average[i]);
    }
  } else {
    for (int64_t i = begin; i < end; ++i) {
      average[i] = parameter[i] - rate.decay * (parameter[i] - average[i]);
    }
  }
}

RASTER_INLINE void step(const Adam& task, const AdamRate& rate, int64_t begin, int64_t end) {
  if (task.visible == nullptr) {
    update(task, rate, begin, end);
  } else {
    update_visible(task, rate, begin, end);
  }
  if (task.average != nullptr) move_average(task, rate, begin, end);
}

void step_generic(const Adam& task, const AdamRate& rate, int64_t begin, int64_t end) {
  step(task, rate, begin, end);
}

#if RASTER_X86
#define RASTER_FOR(name, instructions)                                                           \
  __attribute__((target(instructions))) void step_##name(const Adam& task, const AdamRate& rate, \
                                                         int64_t begin, int64_t end) {           \
    step(task, rate, begin, end);                                                                \
  }

RASTER_FOR(sse42, RASTER_SSE42)
RASTER_FOR(avx2, RASTER_AVX2)
RASTER_FOR(avx512, RASTER_AVX512)
#undef RASTER_FOR
#endif

}  // namespace

void adam(const Adam& task, const AdamRate& rate, int64_t begin, int64_t end) {
  const FlushTiny flush;
  switch (isa()) {
#if RASTER_X86
    case Isa::avx512:
      return step_avx512(task, rate, begin, end);
    case Isa::avx2:
      return step_avx2(task, rate, begin, end);
    case Isa::sse42:
      return step_sse42(task, rate, begin, end);
#endif
    default:
      return step_generic(task, rate, begin, end);
  }
}

}  // namespace raster
