// Vectors of floats for the instruction set that the including file selected. Everything lives in
// an unnamed namespace, and no standard template is used: this header is compiled several times.
#pragma once

#include <cstdint>

#if defined(RASTER_LANES_8) || defined(RASTER_LANES_16)
#include <immintrin.h>
#endif

namespace {

#if defined(RASTER_LANES_16)

constexpr int kLanes = 16, kBlockWidth = 4, kBlockHeight = 4;
using F = __m512;
using M = __mmask16;
inline F load(const float* p) { return _mm512_load_ps(p); }
inline void store(float* p, F a) { _mm512_store_ps(p, a); }
inline F set1(float a) { return _mm512_set1_ps(a); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F abs(F a) { return _mm512_abs_ps(a); }
inline M ge(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
inline M lt(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline M both(M a, M b) { return a & b; }
inline M but_not(M a, M b) { return a & ~b; }
inline bool any(M a) { return a != 0; }
inline uint32_t bits(M a) { return a; }
inline F keep(M m, F a) { return _mm512_maskz_mov_ps(m, a); }
inline F select(M m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }
inline F reciprocal(F a) {
  const F r = _mm512_rcp14_ps(a);
  return mul(r, fnma(a, r, set1(2.0f)));
}
inline F round(F a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline F scale2(F a, F n) { return _mm512_scalef_ps(a, n); }
inline float sum(F a) { return _mm512_reduce_add_ps(a); }
inline F sqrt(F a) { return _mm512_sqrt_ps(a); }
inline F exponent(F a) { return _mm512_getexp_ps(a); }
inline F mantissa(F a) { return _mm512_getmant_ps(a, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero); }
inline void sums4(F a, F b, F c, F d, float* to) {
  const F ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const F cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const F low = _mm512_shuffle_ps(ab, cd, 0x44), high = _mm512_shuffle_ps(ab, cd, 0xee);
  const F s = _mm512_add_ps(low, high);  // four partial sums of a, b, c, d
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
  _mm_store_ps(to, _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1)));
}

#elif defined(RASTER_LANES_8)

constexpr int kLanes = 8, kBlockWidth = 4, kBlockHeight = 2;
using F = __m256;
struct M {
  __m256 v;
};
inline F load(const float* p) { return _mm256_load_ps(p); }
inline void store(float* p, F a) { _mm256_store_ps(p, a); }
inline F set1(float a) { return _mm256_set1_ps(a); }
inline F add(F a, F b) { return _mm256_add_ps(a, b); }
inline F sub(F a, F b) { return _mm256_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
inline F min(F a, F b) { return _mm256_min_ps(a, b); }
inline F max(F a, F b) { return _mm256_max_ps(a, b); }
inline F abs(F a) { return _mm256_andnot_ps(set1(-0.0f), a); }
inline M ge(F a, F b) { return {_mm256_cmp_ps(a, b, _CMP_GE_OQ)}; }
inline M lt(F a, F b) { return {_mm256_cmp_ps(a, b, _CMP_LT_OQ)}; }
inline M both(M a, M b) { return {_mm256_and_ps(a.v, b.v)}; }
inline M but_not(M a, M b) { return {_mm256_andnot_ps(b.v, a.v)}; }
inline uint32_t bits(M a) { return uint32_t(_mm256_movemask_ps(a.v)); }
inline bool any(M a) { return bits(a) != 0; }
inline F keep(M m, F a) { return _mm256_and_ps(m.v, a); }
inline F select(M m, F a, F b) { return _mm256_blendv_ps(b, a, m.v); }
inline F reciprocal(F a) {
  // Two steps would be exact to the last bit; one leaves 2e-7 after rcpps' 12 bits.
  const F r = _mm256_rcp_ps(a);
  return mul(r, fnma(a, r, set1(2.0f)));
}
inline F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F scale2(F a, F n) {
  const __m256i e = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), e));
}
inline float sum(F a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline F sqrt(F a) { return _mm256_sqrt_ps(a); }
inline F exponent(F a) {
  const __m256i e = _mm256_srli_epi32(_mm256_castps_si256(a), 23);
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(e, _mm256_set1_epi32(127)));
}
inline F mantissa(F a) {
  const __m256i m = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x7fffff));
  return _mm256_castsi256_ps(_mm256_or_si256(m, _mm256_set1_epi32(0x3f800000)));
}
inline void sums4(F a, F b, F c, F d, float* to) {
  const F s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  _mm_store_ps(to, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}

#else  // four lanes by the compiler's vector types: SSE4.2, and any other machine

constexpr int kLanes = 4, kBlockWidth = 2, kBlockHeight = 2;
typedef float F __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
struct M {
  I v;
};
inline F load(const float* p) { return *reinterpret_cast<const F*>(p); }
inline void store(float* p, F a) { *reinterpret_cast<F*>(p) = a; }
inline F set1(float a) { return F{a, a, a, a}; }
inline F add(F a, F b) { return a + b; }
inline F sub(F a, F b) { return a - b; }
inline F mul(F a, F b) { return a * b; }
inline F fma(F a, F b, F c) { return a * b + c; }
inline F fnma(F a, F b, F c) { return c - a * b; }
inline F min(F a, F b) { return a < b ? a : b; }
inline F max(F a, F b) { return a > b ? a : b; }
inline F abs(F a) { return (F)((I)a & 0x7fffffff); }
inline M ge(F a, F b) { return {a >= b}; }
inline M lt(F a, F b) { return {a < b}; }
inline M both(M a, M b) { return {a.v & b.v}; }
inline M but_not(M a, M b) { return {a.v & ~b.v}; }
inline uint32_t bits(M a) { return (a.v[0] & 1) | (a.v[1] & 2) | (a.v[2] & 4) | (a.v[3] & 8); }
inline bool any(M a) { return bits(a) != 0; }
inline F keep(M m, F a) { return (F)((I)a & m.v); }
inline F select(M m, F a, F b) { return m.v ? a : b; }
inline F reciprocal(F a) { return 1.0f / a; }
inline F round(F a) {
  const F magic = set1(12582912.0f);  // 1.5 * 2^23: adding it drops the fraction
  return (a + magic) - magic;
}
inline F scale2(F a, F n) { return (F)((I)a + (__builtin_convertvector(n, I) << 23)); }
inline float sum(F a) { return (a[0] + a[2]) + (a[1] + a[3]); }
inline F sqrt(F a) {
  return F{__builtin_sqrtf(a[0]), __builtin_sqrtf(a[1]), __builtin_sqrtf(a[2]),
           __builtin_sqrtf(a[3])};
}
inline F exponent(F a) { return __builtin_convertvector(((I)a >> 23) - 127, F); }
inline F mantissa(F a) { return (F)(((I)a & 0x7fffff) | 0x3f800000); }
inline void sums4(F a, F b, F c, F d, float* to) { store(to, F{sum(a), sum(b), sum(c), sum(d)}); }

#endif

// Sums of four vectors go to four floats at an address of 16 bytes' alignment.

// 2^a for a in [-120, 120]; relative error below 2e-7.
inline F exp2(F a) {
  const F n = round(a);
  const F f = sub(a, n);
  F p = fma(f, set1(1.32647e-3f), set1(9.67151e-3f));
  p = fma(p, f, set1(5.550734e-2f));
  p = fma(p, f, set1(2.4022242e-1f));
  p = fma(p, f, set1(6.9314698e-1f));
  p = fma(p, f, set1(1.0f));
  return scale2(p, n);
}

// A little more than log2(a) for positive normal a: above it by about 3e-3.
inline F log2_above(F a) {
  const F m = sub(mantissa(a), set1(1.0f));
  F p = fma(m, set1(-0.0847848f), set1(0.3256217f));
  p = fma(p, m, set1(-0.6799561f));
  p = fma(p, m, set1(1.4390161f));
  return fma(p, m, add(exponent(a), set1(3e-3f)));
}

inline F clamp(F a, F low, F high) { return min(max(a, low), high); }

}  // namespace
