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

RASTER_INLINE void update(const Adam& run, const AdamRate& rate) {
  float* __restrict__ parameter = run.parameter;
  const float* __restrict__ gradient = run.gradient;
  float* __restrict__ mean = run.mean;
  float* __restrict__ square = run.square;
  for (int64_t i = 0; i < run.count; ++i) {
    const float g = gradient[i];
    const float m = mean[i] + rate.to_mean * (g - mean[i]);
    const float v = rate.beta2 * square[i] + rate.to_square * g * g;
    mean[i] = m;
    square[i] = v;
    parameter[i] -= rate.step_size * m / (__builtin_sqrtf(v) * rate.root_scale + rate.eps);
  }
}

void update_generic(const Adam& run, const AdamRate& rate) { update(run, rate); }

#if RASTER_X86
#define RASTER_FOR(name, instructions)                                             \
  __attribute__((target(instructions))) void update_##name(const Adam& run,        \
                                                           const AdamRate& rate) { \
    update(run, rate);                                                             \
  }

RASTER_FOR(sse42, RASTER_SSE42)
RASTER_FOR(avx2, RASTER_AVX2)
RASTER_FOR(avx512, RASTER_AVX512)
#undef RASTER_FOR
#endif

}  // namespace

void adam(const Adam& run, const AdamRate& rate) {
  const FlushTiny flush;
  switch (isa()) {
#if RASTER_X86
    case Isa::avx512:
      return update_avx512(run, rate);
    case Isa::avx2:
      return update_avx2(run, rate);
    case Isa::sse42:
      return update_sse42(run, rate);
#endif
    default:
      return update_generic(run, rate);
  }
}

}  // namespace raster
