// Pictures from tile lists: a block of 256 threads a tile, a warp for each 8x4 pixels.
#include "blend.h"
#include "tile.cuh"

namespace raster::cuda {
namespace {

// Whether the ellipse of the splat may reach a pixel centre of the block whose first centre is at
// (x0, y0): the minimum of the quadratic form over the rectangle of centres lies at the splat's
// centre or on one of the two edges that face it.
__device__ bool reaches(const Splat& s, float x0, float y0) {
  const float left = x0 - s.x, top = y0 - s.y;
  const float right = left + (kBlockWidth - 1), bottom = top + (kBlockHeight - 1);
  const float xe = fminf(fmaxf(0.0f, left), right), ye = fminf(fmaxf(0.0f, top), bottom);
  const float half_b = -0.5f * s.b;
  const float yv = fminf(fmaxf(xe * __fdividef(half_b, s.c), top), bottom);
  const float xh = fminf(fmaxf(ye * __fdividef(half_b, s.a), left), right);
  const float qv = xe * (s.a * xe + s.b * yv) + s.c * yv * yv;
  const float qh = xh * (s.a * xh + s.b * ye) + s.c * ye * ye;
  return fminf(qv, qh) <= s.threshold;
}

// D values of each splat are blended, from `channel` on; with more than four values the kernel runs
// once for every four.
template <int D, bool Keep>
__global__ void __launch_bounds__(kTilePixels)
    blend_kernel(const BlendInputs in, const BlendState state, const BlendOutputs out,
                 int channel) {
  constexpr int kBatch = kTilePixels;
  __shared__ Splat splats[kBatch];
  __shared__ float4 colors[kBatch];
  const int tile = blockIdx.x, block = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int section = tile / in.tiles(), camera = section % in.num_cameras;
  const int2 corner = tile_corner(in, tile);
  const int bx = corner.x + block_x(block), by = corner.y + block_y(block);
  const int ix = bx + (lane & 7), iy = by + (lane >> 3);
  const float px = float(ix) + 0.5f, py = float(iy) + 0.5f;
  const bool inside = ix < in.width && iy < in.height;
  const int first = state.tile_starts[tile], count = state.tile_ends[tile] - first;
  const int padded = in.padded_values();
  const int chunk0 = first_chunk(first, tile), group0 = first_group(first, tile);

  float T = 1.0f, acc[D];
  bool alive = inside;
  for (int d = 0; d < D; ++d) acc[d] = 0;
  // The state of this pixel in a chunk's record.
  const auto keep = [&](int chunk, float transmittance) {
    float* record = state.chunks + int64_t(chunk) * (padded + 1) * kTilePixels + threadIdx.x;
    for (int d = 0; d < D; ++d) record[(channel + d) * kTilePixels] = acc[d];
    record[padded * kTilePixels] = transmittance;
  };
  if (Keep && channel == 0)
    for (int j = threadIdx.x; j * kChunk < count; j += kBatch) state.chunk_tiles[chunk0 + j] = tile;

  int start = 0;
  for (; start < count; start += kBatch) {
    if (!__syncthreads_or(alive)) break;
    const int mine = start + threadIdx.x;
    if (mine < count) {
      const int rank = state.pairs[first + mine].rank;
      splats[threadIdx.x] = state.splats[rank];
      colors[threadIdx.x] =
          *reinterpret_cast<const float4*>(state.values + int64_t(rank) * padded + channel);
    }
    __syncthreads();
    const int here = min(kBatch, count - start);
    for (int g = 0; g < here; g += 32) {
      if (Keep && (start + g) % kChunk == 0 && start + g > 0)
        keep(chunk0 + (start + g) / kChunk, alive ? T : 0.0f);
      unsigned used = 0;
      if (__any_sync(kAllLanes, alive)) {
        const bool touches =
            g + lane < here && reaches(splats[g + lane], float(bx) + 0.5f, float(by) + 0.5f);
        for (unsigned left = __ballot_sync(kAllLanes, touches); left; left &= left - 1) {
          const int i = __ffs(left) - 1;
          const Splat& s = splats[g + i];
          const Contribution c = contribution(s, px - s.x, py - s.y, alive ? T : 0.0f);
          alive = alive && !c.stops;
          if (Keep) used |= unsigned(__any_sync(kAllLanes, c.taken)) << i;
          if (c.taken) {
            const float4 color = colors[g + i];
            const float rgbd[4] = {color.x, color.y, color.z, color.w};
            for (int d = 0; d < D; ++d) acc[d] = __fmaf_rn(c.weight, rgbd[d], acc[d]);
            T = c.after;
          }
        }
      }
      if (Keep && channel == 0 && lane == 0)
        state.used[(group0 + (start + g) / 32) * kBlocks + block] = used;
    }
  }
  if (Keep) {
    if (count) keep(chunk0, T);
    if (channel == 0 && threadIdx.x == 0) state.walked[tile] = min(start, count);
  }
  if (!inside) return;
  const int64_t pixel = (int64_t(section) * in.height + iy) * in.width + ix;
  for (int d = 0; d < D; ++d) {
    const int value = channel + d;
    if (value < in.channels) {
      const float background = in.backgrounds ? in.backgrounds[camera * in.channels + value] : 0;
      out.color[pixel * in.channels + value] = acc[d] + T * background;
    } else if (value == in.channels && in.depth != DepthMode::none) {
      out.depth[pixel] = acc[d];
    }
  }
  if (channel == 0) out.alpha[pixel] = 1.0f - T;
}

template <int D>
void launch(const BlendInputs& in, const BlendState& state, const BlendOutputs& out, int channel,
            cudaStream_t stream) {
  if (state.chunks)
    blend_kernel<D, true><<<in.all_tiles(), kTilePixels, 0, stream>>>(in, state, out, channel);
  else
    blend_kernel<D, false><<<in.all_tiles(), kTilePixels, 0, stream>>>(in, state, out, channel);
}

}  // namespace

void blend(const BlendInputs& in, const BlendState& state, const BlendOutputs& out,
           cudaStream_t stream) {
  if (state.chunks)
    cudaMemsetAsync(state.chunk_tiles, 0xff, sizeof(int32_t) * in.max_chunks(), stream);
  if (!in.all_tiles()) return;
  if (in.values() <= 3) return launch<3>(in, state, out, 0, stream);
  for (int channel = 0; channel < in.values(); channel += 4)
    launch<4>(in, state, out, channel, stream);
}

}  // namespace raster::cuda
