#include "activate.h"

#include "isa.h"

namespace raster {
namespace {

constexpr int kChunk = 256;  // Gaussians whose exponentials are in the first cache at a time

// exp(x) to 2e-7; inf above 88.7, 1e-38 below -87.3, NaN for NaN. Written so that loops vectorize.
RASTER_INLINE float exponential(float x) {
  constexpr float kInfinity = __builtin_inff();
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const bool is_over = x > 88.722f;
  float y = x < -87.3f ? -87.3f : x;
  y = is_over ? 0.0f : y;
  const float shifted = y * 1.44269504f + kMagic;
  const float n = shifted - kMagic;
  const float r = (y - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  float p = 1.9875691e-4f;
  p = p * r + 1.3981999e-3f;
  p = p * r + 8.3334519e-3f;
  p = p * r + 4.1665796e-2f;
  p = p * r + 1.6666665e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  // n reaches 128: the power of two in two factors, so that neither overflows.
  const int whole = __builtin_bit_cast(int, shifted) - __builtin_bit_cast(int, kMagic);
  const int half = whole >> 1;
  const float a = __builtin_bit_cast(float, (half + 127) << 23);
  const float b = __builtin_bit_cast(float, (whole - half + 127) << 23);
  return is_over ? kInfinity : p * a * b;
}

// sqrt(s^2 + f^2), also where the squares underflow.
RASTER_INLINE float widened(float s, float f) {
  const float root = __builtin_sqrtf(s * s + f * f);
  return root < s ? s : root;
}

struct Exponentials {
  float scales[3 * kChunk];
  float opacities[kChunk];
  float complements[kChunk];  // 1 - opacity, exact near 1
};

RASTER_INLINE void exponentials(const Activate& task, int64_t begin, int64_t count,
                                Exponentials& e) {
  const float* log_scales = task.log_scales + 3 * begin;
  const float* logits = task.opacity_logits + begin;
  for (int64_t i = 0; i < 3 * count; ++i) e.scales[i] = exponential(log_scales[i]);
  for (int64_t i = 0; i < count; ++i) {
    const float x = logits[i];
    const float t = exponential(x < 0 ? x : -x), s = 1.0f / (1.0f + t);
    e.opacities[i] = x < 0 ? t * s : s;
    e.complements[i] = x < 0 ? s : t * s;
  }
}

RASTER_INLINE void forward(const Activate& task, int64_t begin, int64_t end) {
  Exponentials e;
  for (int64_t start = begin; start < end; start += kChunk) {
    const int64_t count = end - start < kChunk ? end - start : kChunk;
    exponentials(task, start, count, e);
    float* __restrict__ scales = task.scales + 3 * start;
    float* __restrict__ opacities = task.opacities + start;
    if (task.filter_3d == nullptr) {
      for (int64_t i = 0; i < 3 * count; ++i) scales[i] = e.scales[i];
      for (int64_t i = 0; i < count; ++i) opacities[i] = e.opacities[i];
      continue;
    }
    const float* __restrict__ filter = task.filter_3d + start;
    for (int64_t i = 0; i < count; ++i) {
      float ratio = 1.0f;
      for (int k = 0; k < 3; ++k) {
        const float s = e.scales[3 * i + k];
        const float filtered = widened(s, filter[i]);
        scales[3 * i + k] = filtered;
        ratio *= s / filtered;
      }
      opacities[i] = e.opacities[i] * ratio;
    }
  }
}

RASTER_INLINE void backward(const Activate& task, const ActivateGradients& g, int64_t begin,
                            int64_t end) {
  Exponentials e;
  for (int64_t start = begin; start < end; start += kChunk) {
    const int64_t count = end - start < kChunk ? end - start : kChunk;
    exponentials(task, start, count, e);
    float* __restrict__ v_log_scales = g.log_scales + 3 * start;
    float* __restrict__ v_logits = g.opacity_logits + start;
    for (int64_t i = 0; i < count; ++i) {
      const float f = task.filter_3d == nullptr ? 0.0f : task.filter_3d[start + i];
      const float upstream = g.opacities == nullptr ? 0.0f : g.opacities[start + i];
      float ratio = 1.0f, filtered[3];
      for (int k = 0; k < 3; ++k) {
        const float s = e.scales[3 * i + k];
        filtered[k] = widened(s, f);
        ratio *= s / filtered[k];
      }
      const float by_log_opacity = upstream * e.opacities[i] * ratio;
      v_logits[i] = by_log_opacity * e.complements[i];
      for (int k = 0; k < 3; ++k) {
        const float s = e.scales[3 * i + k] / filtered[k], hidden = f / filtered[k];
        const float v = g.scales == nullptr ? 0.0f : g.scales[3 * (start + i) + k];
        v_log_scales[3 * i + k] = v * s * e.scales[3 * i + k] + by_log_opacity * hidden * hidden;
      }
    }
  }
}

void forward_generic(const Activate& task, int64_t begin, int64_t end) {
  forward(task, begin, end);
}

void backward_generic(const Activate& task, const ActivateGradients& g, int64_t begin,
                      int64_t end) {
  backward(task, g, begin, end);
}

#if RASTER_X86
#define RASTER_FOR(name, instructions)                                                           \
  __attribute__((target(instructions))) void forward_##name(const Activate& task, int64_t begin, \
                                                            int64_t end) {                       \
    forward(task, begin, end);                                                                   \
  }                                                                                              \
  __attribute__((target(instructions))) void backward_##name(                                    \
      const Activate& task, const ActivateGradients& g, int64_t begin, int64_t end) {            \
    backward(task, g, begin, end);                                                               \
  }

RASTER_FOR(sse42, RASTER_SSE42)
RASTER_FOR(avx2, RASTER_AVX2)
RASTER_FOR(avx512, RASTER_AVX512)
#undef RASTER_FOR
#endif

}  // namespace

void activate(const Activate& task, int64_t begin, int64_t end) {
  switch (isa()) {
#if RASTER_X86
    case Isa::avx512:
      return forward_avx512(task, begin, end);
    case Isa::avx2:
      return forward_avx2(task, begin, end);
    case Isa::sse42:
      return forward_sse42(task, begin, end);
#endif
    default:
      return forward_generic(task, begin, end);
  }
}

void activate_backward(const Activate& task, const ActivateGradients& gradients, int64_t begin,
                       int64_t end) {
  switch (isa()) {
#if RASTER_X86
    case Isa::avx512:
      return backward_avx512(task, gradients, begin, end);
    case Isa::avx2:
      return backward_avx2(task, gradients, begin, end);
    case Isa::sse42:
      return backward_sse42(task, gradients, begin, end);
#endif
    default:
      return backward_generic(task, gradients, begin, end);
  }
}

}  // namespace raster
