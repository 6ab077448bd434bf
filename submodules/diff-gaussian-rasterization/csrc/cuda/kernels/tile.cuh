// What the forward and the backward of the blend must compute alike, to the last bit.
#pragma once

#include "blend.h"

namespace raster::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kMinAlpha = 1.0f / 255.0f;  // fainter contributions are skipped
constexpr float kMaxAlpha = 0.99f;          // keeps the transmittance behind a splat positive
constexpr float kMinTransmittance = 1e-4f;  // a pixel stops before it would get darker than this
constexpr int kBlockWidth = 8, kBlockHeight = 4;

// Offset of a block inside its tile.
__device__ constexpr int block_x(int block) { return (block & 1) * kBlockWidth; }
__device__ constexpr int block_y(int block) { return (block >> 1) * kBlockHeight; }

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline float reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// alpha before the clamp at 0.99; every operation is written out, so that no compiler decides
// where to round.
__device__ inline float raw_alpha(const Splat& s, float dx, float dy) {
  const float t = __fmaf_rn(s.b, dy, __fmul_rn(s.a, dx));
  const float u = __fmaf_rn(-__fmul_rn(s.c, dy), dy, s.log_opacity);
  return exp2_fast(__fmaf_rn(-dx, t, u));
}

// What a splat does to a pixel of transmittance T > 0; a weight of 0 where it does nothing.
struct Contribution {
  float raw, alpha, weight, after;
  bool taken, stops;
};

__device__ inline Contribution contribution(const Splat& s, float dx, float dy, float T) {
  Contribution c;
  c.raw = raw_alpha(s, dx, dy);
  c.alpha = fminf(c.raw, kMaxAlpha);
  c.weight = __fmul_rn(c.alpha, T);
  c.after = __fsub_rn(T, c.weight);
  const bool visible = c.alpha >= kMinAlpha && T > 0.0f;
  c.stops = visible && c.after < kMinTransmittance;
  c.taken = visible && !c.stops;
  return c;
}

__device__ inline int2 tile_corner(const BlendInputs& in, int tile) {
  const int t = tile % in.tiles();
  return {t % in.tiles_x() * kTile, t / in.tiles_x() * kTile};
}

__device__ inline int first_chunk(int first_pair, int tile) { return first_pair / kChunk + tile; }
__device__ inline int first_group(int first_pair, int tile) { return first_pair / 32 + tile; }

}  // namespace raster::cuda
