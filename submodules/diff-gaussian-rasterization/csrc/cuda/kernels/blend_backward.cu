// Gradients of the blend: a warp a chunk of 128 pairs of one tile, front to back.
//
// The warp holds the state of all 256 pixels of the tile in registers, eight blocks of 8x4. For
// each splat it visits the blocks in which the forward drew something, sums over their pixels in
// registers, and leaves the sums of the pair in a slot of its own. A second kernel adds the slots
// of each splat in order. So no sum depends on timing, and every run gives the same bits.
#include "blend.h"
#include "tile.cuh"

namespace raster::cuda {
namespace {

constexpr float kLn2 = 0.69314718f;
constexpr int kFewSlots = 8;  // a splat with more is summed by its whole warp
enum Moment : int { kSum = 0, kSumX, kSumY, kSumXX, kSumXY, kSumYY, kAbsX, kAbsY };

// One halving step of a sum over lanes: of 2n values each lane keeps the sums of n, by its bit.
template <int N>
__device__ void halve(float (&v)[2 * N], int bit) {
  const bool upper = threadIdx.x & bit;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const float send = upper ? v[k] : v[k + N];
    v[k] = (upper ? v[k + N] : v[k]) + __shfl_xor_sync(kAllLanes, send, bit);
  }
}

// Sums 12 values over the warp; value `index_of_12(lane)` lies in v[0] afterwards, the index may be
// -1. A value lies in two lanes.
__device__ void sum_12(float (&v)[12]) {
  halve<6>(v, 16);
  float six[6] = {v[0], v[1], v[2], v[3], v[4], v[5]};
  halve<3>(six, 8);
  float four[4] = {six[0], six[1], six[2], 0.0f};
  halve<2>(four, 4);
  float two[2] = {four[0], four[1]};
  halve<1>(two, 2);
  v[0] = two[0] + __shfl_xor_sync(kAllLanes, two[0], 1);
}

__device__ int index_of_12(int lane) {
  const int third = (lane >> 2 & 1) * 2 + (lane >> 1 & 1);
  return third == 3 ? -1 : (lane >> 4 & 1) * 6 + (lane >> 3 & 1) * 3 + third;
}

__device__ constexpr int lane_of_12(int index) {
  return index / 6 * 16 + index % 6 / 3 * 8 + index % 3 / 2 * 4 + index % 3 % 2 * 2;
}

__device__ float sum_all(float v) {
#pragma unroll
  for (int bit = 16; bit; bit >>= 1) v += __shfl_xor_sync(kAllLanes, v, bit);
  return v;
}

// The chunk that a warp works on, and where its tile lies.
struct Chunk {
  int tile, camera, section;
  int first;       // of the tile's pairs
  int begin, end;  // of the chunk, relative to `first`
  int number;      // of the chunk
  int number0;     // of the tile's first chunk
};

__device__ bool find_chunk(const BlendInputs& in, const BlendState& state, int number, Chunk& c) {
  if (number >= in.max_chunks()) return false;
  c.number = number;
  c.tile = state.chunk_tiles[number];
  if (c.tile < 0) return false;
  c.section = c.tile / in.tiles();
  c.camera = c.section % in.num_cameras;
  c.first = state.tile_starts[c.tile];
  c.number0 = first_chunk(c.first, c.tile);
  c.begin = (number - c.number0) * kChunk;
  c.end = min(c.begin + kChunk, state.tile_ends[c.tile] - c.first);
  return true;
}

// What the warp knows of the pixel that a lane has in one block.
struct PixelState {
  float T;       // transmittance before the next splat; 0 once the pixel has stopped
  float behind;  // upstream gradient times what is seen behind the splats walked so far
};

// Upstream gradient of one value at one pixel.
__device__ float upstream(const BlendInputs& in, const BlendGradients& g, int64_t pixel, int d) {
  if (d < in.channels) return g.color[pixel * in.channels + d];
  return d == in.channels && g.depth ? g.depth[pixel] : 0.0f;
}

// State of a pixel at the start of the chunk; `v_of(d)` is the upstream gradient of value d. D: the
// largest number of values, so that loops unroll; 0: any.
template <int D, class Upstream>
__device__ PixelState start_of(const BlendInputs& in, const BlendState& state,
                               const BlendGradients& g, const Chunk& c, int index, bool inside,
                               int64_t pixel, const Upstream& v_of) {
  if (!inside) return {0, 0};
  const int padded = in.padded_values();
  const int64_t stride = int64_t(padded + 1) * kTilePixels;
  const float* final_record = state.chunks + c.number0 * stride + index;
  const float* record = state.chunks + c.number * stride + index;
  const bool is_first = c.begin == 0;
  PixelState s;
  s.T = is_first ? 1.0f : record[padded * kTilePixels];
  float beyond = g.alpha ? -g.alpha[pixel] : 0.0f;
  s.behind = 0;
#pragma unroll
  for (int d = 0; d < (D ? D : in.values()); ++d) {
    if (D && d >= in.values()) break;
    const float so_far = is_first ? 0.0f : record[d * kTilePixels];
    s.behind += v_of(d) * (final_record[d * kTilePixels] - so_far);
    if (in.backgrounds && d < in.channels)
      beyond += in.backgrounds[c.camera * in.channels + d] * v_of(d);
  }
  s.behind += final_record[padded * kTilePixels] * beyond;
  if (s.T == 0.0f) s.behind = 0;
  return s;
}

// One splat at one pixel: its weight, the new state, and the moments of what its exponent gets.
template <bool Geometry, bool Absolute>
__device__ float visit(const Splat& s, float dx, float dy, float dot, PixelState& pixel,
                       float* sums) {
  const Contribution c = contribution(raw_alpha(s, dx, dy), pixel.T);
  const float weight = c.taken ? c.weight : 0.0f;
  if constexpr (Geometry) {
    // alpha dL/dalpha = alpha (T dot - behind / (1 - alpha)), and alpha T is the weight.
    const float own = weight * dot, behind = pixel.behind - own;
    const float share = c.alpha * reciprocal_fast(1.0f - c.alpha);
    const float m = c.taken && c.raw < kMaxAlpha ? own - share * behind : 0.0f;
    const float x = m * dx, y = m * dy;
    sums[kSum] += m;
    sums[kSumX] += x;
    sums[kSumY] += y;
    sums[kSumXX] += x * dx;
    sums[kSumXY] += x * dy;
    sums[kSumYY] += y * dy;
    if constexpr (Absolute) {
      sums[kAbsX] += fabsf(2.0f * s.a * x + s.b * y);
      sums[kAbsY] += fabsf(2.0f * s.c * y + s.b * x);
    }
    pixel.behind = c.stops ? 0.0f : behind;
  }
  pixel.T = c.stops ? 0.0f : c.taken ? c.after : pixel.T;
  return weight;
}

__device__ void clear_slots(const BlendInputs& in, const BlendState& state, const BlendGradients& g,
                            const Chunk& c, int lane) {
  const int quads = in.slot_width() / 4;
  for (int i = c.begin + lane; i < c.end; i += 32) {
    const int64_t number = state.pairs[c.first + i].slot;
    if (number >= in.capacity) continue;
    float4* slot = reinterpret_cast<float4*>(g.slots) + number * quads;
    for (int q = 0; q < quads; ++q) slot[q] = {0, 0, 0, 0};
  }
}

// The blocks of a tile in which the forward drew pair `i` of a group: lane b holds block b's bits.
__device__ unsigned used_blocks(uint32_t word, int i) {
  return __ballot_sync(kAllLanes, word >> i & 1);
}

constexpr int kWarps = 4;

// D: 3 or 4 values in registers.
template <int D, bool Geometry, bool Absolute>
__global__ void __launch_bounds__(32 * kWarps, D == 3 ? 5 : 4)
    backward_kernel(const BlendInputs in, const Splats all, const BlendState state,
                    const BlendGradients g) {
  __shared__ Splat all_splats[kWarps][32];
  __shared__ float4 all_colors[kWarps][32];
  __shared__ int all_slots[kWarps][32];
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  Chunk c;
  if (!find_chunk(in, state, blockIdx.x * kWarps + warp, c)) return;
  if (c.begin >= state.walked[c.tile]) return clear_slots(in, state, g, c, lane);
  Splat* splats = all_splats[warp];
  float4* colors = all_colors[warp];
  int* slots = all_slots[warp];

  const int2 corner = tile_corner(in, c.tile);
  const int ix0 = corner.x + (lane & 7), iy0 = corner.y + (lane >> 3);
  PixelState pixels[kBlocks];
  float v[kBlocks][D];
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    const int ix = ix0 + block_x(b), iy = iy0 + block_y(b);
    const bool inside = ix < in.width && iy < in.height;
    const int64_t pixel = (int64_t(c.section) * in.height + iy) * in.width + ix;
#pragma unroll
    for (int d = 0; d < D; ++d) v[b][d] = inside ? upstream(in, g, pixel, d) : 0.0f;
    pixels[b] =
        start_of<D>(in, state, g, c, b * 32 + lane, inside, pixel, [&](int d) { return v[b][d]; });
  }

  const int group0 = first_group(c.first, c.tile);
  const int index = index_of_12(lane);
  const bool writes = index >= 0 && !(lane & 1);
  const float px0 = float(ix0) + 0.5f, py0 = float(iy0) + 0.5f;
  for (int start = c.begin; start < c.end; start += 32) {
    const int here = min(32, c.end - start);
    __syncwarp();
    if (lane < here) {
      const Pair pair = state.pairs[c.first + start + lane];
      splats[lane] = all.splats[pair.row];
      colors[lane] = *reinterpret_cast<const float4*>(all.values + int64_t(pair.row) * 4);
      slots[lane] = pair.slot;
    }
    const uint32_t word = lane < kBlocks ? state.used[(group0 + start / 32) * kBlocks + lane] : 0;
    __syncwarp();
    for (int i = 0; i < here; ++i) {
      const unsigned blocks = used_blocks(word, i);
      float sums[12] = {};
      if (blocks) {
        const Splat s = splats[i];
        const float4 four = colors[i];
        const float color[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) {
          if (!(blocks >> b & 1)) continue;
          const float dx = (px0 + float(block_x(b))) - s.x, dy = (py0 + float(block_y(b))) - s.y;
          float dot = 0;
#pragma unroll
          for (int d = 0; d < D; ++d) dot += color[d] * v[b][d];
          const float weight = visit<Geometry, Absolute>(s, dx, dy, dot, pixels[b], sums);
#pragma unroll
          for (int d = 0; d < D; ++d) sums[kMoments + d] += weight * v[b][d];
        }
        sum_12(sums);
      }
      const int slot = slots[i];
      if (writes && slot < in.capacity) g.slots[int64_t(slot) * 12 + index] = sums[0];
    }
  }
}

// Any number of values: the upstream gradients lie in shared memory.
template <bool Geometry, bool Absolute>
__global__ void __launch_bounds__(32)
    backward_many_kernel(const BlendInputs in, const Splats all, const BlendState state,
                         const BlendGradients g) {
  extern __shared__ float v[];  // [values, kTilePixels]
  const int lane = threadIdx.x, padded = in.padded_values(), width = in.slot_width();
  Chunk c;
  if (!find_chunk(in, state, blockIdx.x, c)) return;
  if (c.begin >= state.walked[c.tile]) return clear_slots(in, state, g, c, lane);
  const int2 corner = tile_corner(in, c.tile);
  const int ix0 = corner.x + (lane & 7), iy0 = corner.y + (lane >> 3);
  PixelState pixels[kBlocks];
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    const int ix = ix0 + block_x(b), iy = iy0 + block_y(b), index = b * 32 + lane;
    const bool inside = ix < in.width && iy < in.height;
    const int64_t pixel = (int64_t(c.section) * in.height + iy) * in.width + ix;
    for (int d = 0; d < padded; ++d)
      v[d * kTilePixels + index] = inside ? upstream(in, g, pixel, d) : 0.0f;
    pixels[b] = start_of<0>(in, state, g, c, index, inside, pixel,
                            [&](int d) { return v[d * kTilePixels + index]; });
  }
  const int group0 = first_group(c.first, c.tile);
  for (int i = c.begin; i < c.end; ++i) {
    const Pair pair = state.pairs[c.first + i];
    const bool writes = lane == 0 && pair.slot < in.capacity;
    const uint32_t word = lane < kBlocks ? state.used[(group0 + i / 32) * kBlocks + lane] : 0;
    const unsigned blocks = used_blocks(word, i % 32);
    float* slot = g.slots + int64_t(pair.slot) * width;
    float sums[kMoments] = {}, weights[kBlocks] = {};
    const Splat s = all.splats[pair.row];
    const float* color = all.values + int64_t(pair.row) * padded;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      if (!(blocks >> b & 1)) continue;
      const float dx = (float(ix0 + block_x(b)) + 0.5f) - s.x;
      const float dy = (float(iy0 + block_y(b)) + 0.5f) - s.y;
      float dot = 0;
      for (int d = 0; d < in.values(); ++d) dot += color[d] * v[d * kTilePixels + b * 32 + lane];
      weights[b] = visit<Geometry, Absolute>(s, dx, dy, dot, pixels[b], sums);
    }
#pragma unroll
    for (int k = 0; k < kMoments; ++k) {
      const float total = sum_all(sums[k]);
      if (writes) slot[k] = total;
    }
    for (int d = 0; d < padded; ++d) {
      float sum = 0;
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) sum += weights[b] * v[d * kTilePixels + b * 32 + lane];
      sum = sum_all(sum);
      if (writes) slot[kMoments + d] = sum;
    }
  }
}

// From the sums of a row to the gradients of what the projection gave. The sums are of -dL/dq.
__device__ void finish(const BlendInputs& in, const BlendGradients& g, int64_t row, bool drawn,
                       const float* moments) {
  const float* conic = in.conics + 3 * row;
  const float a = drawn ? conic[0] : 0, b = drawn ? conic[1] : 0, c = drawn ? conic[2] : 0;
  *reinterpret_cast<float2*>(g.v_means2d + 2 * row) = {a * moments[kSumX] + b * moments[kSumY],
                                                       b * moments[kSumX] + c * moments[kSumY]};
  g.v_conics[3 * row] = -0.5f * moments[kSumXX];
  g.v_conics[3 * row + 1] = -moments[kSumXY];
  g.v_conics[3 * row + 2] = -0.5f * moments[kSumYY];
  g.v_opacities[row] = drawn ? moments[kSum] / in.opacities[row] : 0.0f;
  if (g.absolute)
    *reinterpret_cast<float2*>(g.v_absolute + 2 * row) = {kLn2 * moments[kAbsX],
                                                          kLn2 * moments[kAbsY]};
}

__device__ void finish_value(const BlendInputs& in, const BlendGradients& g, int64_t row,
                             bool drawn, int d, float sum) {
  if (d < in.channels) {
    g.v_colors[row * in.channels + d] = sum;
  } else if (d == in.channels && g.v_depths) {
    const float z = drawn ? in.depths[row] : 1.0f;
    g.v_depths[row] = in.depth == DepthMode::linear ? sum : -sum / (z * z);
  }
}

constexpr int kSumThreads = 128;

__device__ void add_slot(const float4* slots, int64_t slot, float* sums) {
#pragma unroll
  for (int q = 0; q < 3; ++q) {
    const float4 part = slots[slot * 3 + q];
    sums[4 * q] += part.x, sums[4 * q + 1] += part.y;
    sums[4 * q + 2] += part.z, sums[4 * q + 3] += part.w;
  }
}

// Slots of a row; none where there was too little room, since then some were never written.
__device__ int slots_of(const BlendInputs& in, const Splats& all, int row) {
  return all.totals->pairs > in.capacity ? 0 : all.counts[row];
}

// One thread a row, for slots of 12 floats.
__global__ void __launch_bounds__(kSumThreads)
    sum_slots_kernel(const BlendInputs in, const Splats all, const BlendGradients g) {
  const int row = blockIdx.x * kSumThreads + threadIdx.x, lane = threadIdx.x & 31;
  const bool exists = row < in.rows();
  const int count = exists ? slots_of(in, all, row) : 0;
  const int offset = exists ? all.slot_offsets[row] : 0;
  const float4* slots = reinterpret_cast<const float4*>(g.slots);
  float sums[12] = {};
  if (count <= kFewSlots)
    for (int k = 0; k < count; ++k) add_slot(slots, offset + k, sums);
  for (unsigned many = __ballot_sync(kAllLanes, count > kFewSlots); many; many &= many - 1) {
    const int from = __ffs(many) - 1;
    const int n = __shfl_sync(kAllLanes, count, from);
    const int at = __shfl_sync(kAllLanes, offset, from);
    float part[12] = {};
    for (int k = lane; k < n; k += 32) add_slot(slots, int64_t(at) + k, part);
    sum_12(part);
#pragma unroll
    for (int k = 0; k < 12; ++k) {
      const float total = __shfl_sync(kAllLanes, part[0], lane_of_12(k));
      if (lane == from) sums[k] = total;
    }
  }
  if (!exists) return;
  if (g.geometry) finish(in, g, row, count > 0, sums);
#pragma unroll
  for (int d = 0; d < 4; ++d)
    if (d < in.values()) finish_value(in, g, row, count > 0, d, sums[kMoments + d]);
}

// One thread a row, for slots of any width.
__global__ void __launch_bounds__(kSumThreads)
    sum_many_kernel(const BlendInputs in, const Splats all, const BlendGradients g) {
  const int row = blockIdx.x * kSumThreads + threadIdx.x;
  if (row >= in.rows()) return;
  const int count = slots_of(in, all, row), width = in.slot_width();
  const float* slots = g.slots + int64_t(all.slot_offsets[row]) * width;
  const auto total = [&](int field) {
    float sum = 0;
    for (int k = 0; k < count; ++k) sum += slots[int64_t(k) * width + field];
    return sum;
  };
  if (g.geometry) {
    float moments[kMoments];
    for (int k = 0; k < kMoments; ++k) moments[k] = total(k);
    finish(in, g, row, count > 0, moments);
  }
  for (int d = 0; d < in.values(); ++d) finish_value(in, g, row, count > 0, d, total(kMoments + d));
}

template <bool Geometry, bool Absolute>
void launch(const BlendInputs& in, const Splats& all, const BlendState& state,
            const BlendGradients& g, cudaStream_t stream) {
  const int chunks = in.max_chunks(), blocks = (chunks + kWarps - 1) / kWarps;
  if (in.values() <= 3) {
    backward_kernel<3, Geometry, Absolute><<<blocks, 32 * kWarps, 0, stream>>>(in, all, state, g);
  } else if (in.values() == 4) {
    backward_kernel<4, Geometry, Absolute><<<blocks, 32 * kWarps, 0, stream>>>(in, all, state, g);
  } else {
    const int bytes = in.padded_values() * kTilePixels * int(sizeof(float));
    cudaFuncSetAttribute(backward_many_kernel<Geometry, Absolute>,
                         cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    backward_many_kernel<Geometry, Absolute><<<chunks, 32, bytes, stream>>>(in, all, state, g);
  }
}

}  // namespace

void blend_backward(const BlendInputs& in, const Splats& all, const BlendState& state,
                    const BlendGradients& g, cudaStream_t stream) {
  if (!in.rows() || !in.all_tiles()) return;
  if (!g.geometry)
    launch<false, false>(in, all, state, g, stream);
  else if (g.absolute)
    launch<true, true>(in, all, state, g, stream);
  else
    launch<true, false>(in, all, state, g, stream);
  const int blocks = (in.rows() + kSumThreads - 1) / kSumThreads;
  if (in.values() <= 4)
    sum_slots_kernel<<<blocks, kSumThreads, 0, stream>>>(in, all, g);
  else
    sum_many_kernel<<<blocks, kSumThreads, 0, stream>>>(in, all, g);
}

}  // namespace raster::cuda
