// Depth order of the splats and the tile lists: which splats each tile has to look at.
#include <thrust/iterator/transform_iterator.h>

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#include <cuda/std/bit>

#include "blend.h"

namespace raster::cuda {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kAll = 0xffffffffu;
constexpr uint32_t kHidden = 0xffffffffu;  // sorts behind every depth
constexpr int kManyTiles = 12;             // a splat with more is shared by a warp

__device__ Splat splat_of(const BlendInputs& in, int row) {
  constexpr float kLog2e = 1.44269504f, kLog2Of255 = 7.9943534f;
  const float* xy = in.means2d + 2 * int64_t(row);
  const float* conic = in.conics + 3 * int64_t(row);
  Splat s;
  s.x = xy[0], s.y = xy[1];
  s.a = 0.5f * kLog2e * conic[0], s.b = kLog2e * conic[1], s.c = 0.5f * kLog2e * conic[2];
  s.log_opacity = log2f(in.opacities[row]);
  // A little more than the ellipse of alpha = 1/255: pixels decide by their alpha.
  s.threshold = s.log_opacity + kLog2Of255 + 1e-3f;
  s.row = row;
  return s;
}

// Tiles whose pixel centres the ellipse a x^2 + b x y + c y^2 <= threshold may reach, row by row
// from its exact extent in that row.
struct TileRows {
  float x, y, b, det, half_over_a, full, y_right;
  int row0, row1;

  __device__ TileRows(const BlendInputs& in, const Splat& s) {
    x = s.x, y = s.y, b = s.b;
    row0 = 0, row1 = -1;
    const float t = s.threshold;
    if (!(t > 0)) return;
    const float ac = 4.0f * s.a * s.c;
    // The determinant's own rounding is taken off, to stay on the safe side.
    det = fmaxf(ac - s.b * s.b - 4e-7f * ac, 1e-6f * ac);
    const float t_over_det = 4.0f * t / det;
    const float half_height = sqrtf(s.a * t_over_det);
    constexpr float kPerTile = 1.0f / kTile;
    row0 = int(fmaxf((s.y - half_height - 0.5f) * kPerTile, 0.0f));
    row1 = int(floorf(fminf((s.y + half_height - 0.5f) * kPerTile, float(in.tiles_y() - 1))));
    // Where the ellipse reaches furthest right; it reaches furthest left at the opposite point.
    y_right = -0.5f * s.b / s.c * sqrtf(s.c * t_over_det);
    half_over_a = 0.5f / s.a, full = 4.0f * s.a * t;
  }

  // First tile and number of tiles in a row.
  __device__ int2 extent(const BlendInputs& in, int row) const {
    constexpr float kPerTile = 1.0f / kTile, kSlack = 1e-3f;
    const float y0 = float(row) * kTile + 0.5f - y, y1 = y0 + (kTile - 1);
    const float yr = fminf(fmaxf(y_right, y0), y1), yl = fminf(fmaxf(-y_right, y0), y1);
    const float right = x + (sqrtf(fmaxf(full - yr * yr * det, 0.0f)) - b * yr) * half_over_a;
    const float left = x - (sqrtf(fmaxf(full - yl * yl * det, 0.0f)) + b * yl) * half_over_a;
    const int first = int(fmaxf(ceilf((left - (kTile - 0.5f) - kSlack) * kPerTile), 0.0f));
    const int last =
        int(floorf(fminf((right - 0.5f + kSlack) * kPerTile, float(in.tiles_x() - 1))));
    return {first, max(last - first + 1, 0)};
  }
};

// Colours, zeros up to the next four, and depth behind the colours.
__device__ void write_values(const BlendInputs& in, int row, float* values) {
  const int camera = row / in.num_gaussians, m = row - camera * in.num_gaussians;
  const float* colors = in.colors + camera * in.colors_camera_stride + int64_t(m) * in.channels;
  const int padded = in.padded_values();
  for (int d = 0; d < padded; d += 4) {
    float four[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      four[k] = d + k < in.channels ? colors[d + k] : 0.0f;
      if (d + k == in.channels && in.depth != DepthMode::none)
        four[k] = in.depth == DepthMode::linear ? in.depths[row] : 1.0f / in.depths[row];
    }
    *reinterpret_cast<float4*>(values + d) = {four[0], four[1], four[2], four[3]};
  }
}

// A memset of so few bytes takes several times as long inside a CUDA graph.
__global__ void clear_kernel(Totals* totals) { *totals = {0, 0, kNoBad, 0}; }

__global__ void __launch_bounds__(kThreads)
    pack_kernel(const BlendInputs in, const Splats out, uint32_t* depth_keys) {
  const int row = blockIdx.x * kThreads + threadIdx.x;
  if (!depth_keys && row >= in.rows()) return;
  int count = 0, bad = kNoBad;
  if (row < in.rows()) {
    const int radius = in.radii[row];
    if (!depth_keys) {
      out.splats[row] = radius > 0 ? splat_of(in, row) : Splat{0, 0, 0, 0, 0, -1000.0f, -1.0f, row};
      write_values(in, row, out.values + int64_t(row) * in.padded_values());
      return;
    }
    if (radius > 0) {
      const Splat s = splat_of(in, row);
      const TileRows tiles(in, s);
      for (int r = tiles.row0; r <= tiles.row1; ++r) count += tiles.extent(in, r).y;
      if (count) {
        out.splats[row] = s;
        write_values(in, row, out.values + int64_t(row) * in.padded_values());
      }
    } else if (radius < 0) {
      bad = row % in.num_gaussians * 8 - radius;
    }
    out.counts[row] = count;
    // Depths are positive, so their bits are in order.
    depth_keys[row] = count ? __float_as_uint(in.depths[row]) : kHidden;
  }
  Totals* const totals = out.totals;
  const int splats = __popc(__ballot_sync(kAll, count > 0));
  const int pairs = __reduce_add_sync(kAll, count);
  const int worst = __reduce_min_sync(kAll, bad);
  __shared__ int block_splats, block_pairs;
  if (threadIdx.x == 0) block_splats = block_pairs = 0;
  __syncthreads();
  if ((threadIdx.x & 31) == 0) {
    atomicAdd(&block_splats, splats);
    atomicAdd(&block_pairs, pairs);
    if (worst != kNoBad) atomicMin(&totals->bad, worst);
  }
  __syncthreads();
  if (threadIdx.x == 0 && block_splats) {
    atomicAdd(&totals->splats, block_splats);
    atomicAdd(&totals->pairs, block_pairs);
  }
}

__global__ void iota_kernel(int n, int32_t* order) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) order[i] = i;
}

struct CountOf {
  const int32_t* counts;
  __host__ __device__ int32_t operator()(int32_t row) const { return counts[row]; }
};

__device__ int section_of(const BlendInputs& in, int row) {
  const int camera = row / in.num_gaussians, m = row - camera * in.num_gaussians;
  int set = 0;
  while (m >= in.set_ends[set]) ++set;
  return set * in.num_cameras + camera;
}

// Writes one pair as number `e` of all, in the order of depth.
struct Emitter {
  uint32_t* keys;
  int32_t* emitted;
  Pair* pairs;
  int capacity;

  __device__ void operator()(int e, int tile, int row, int slot) const {
    if (e >= capacity) return;
    keys[e] = tile;
    emitted[e] = e;
    pairs[e] = {row, slot};
  }
};

// One thread a splat; splats with many tiles are shared by the warp afterwards. A warp takes four
// runs of eight ranks from far apart: the nearest splats are large, and together they would keep
// one warp busy long after the others.
__global__ void __launch_bounds__(kThreads)
    emit_kernel(const BlendInputs in, const Splats splats, const ListScratch scratch,
                const int32_t* order) {
  const int warp = (blockIdx.x * kThreads + threadIdx.x) >> 5, lane = threadIdx.x & 31;
  const int num_splats = splats.totals->splats, num_warps = (num_splats + 31) / 32;
  if (warp >= num_warps) return;
  const int rank = 8 * (warp + (lane >> 3) * num_warps) + (lane & 7);
  const bool exists = rank < num_splats;
  const Emitter emit{scratch.tile_keys, scratch.emitted, scratch.pairs, in.capacity};
  int row = 0, count = 0, offset = 0, base = 0, slot = 0;
  if (exists) {
    row = order[rank];
    count = splats.counts[row];
    offset = scratch.offsets[rank];
    slot = splats.slot_offsets[row];
    base = section_of(in, row) * in.tiles();
    if (count <= kManyTiles) {
      const TileRows tiles(in, splats.splats[row]);
      for (int r = tiles.row0, k = 0; r <= tiles.row1; ++r) {
        const int2 extent = tiles.extent(in, r);
        for (int t = 0; t < extent.y; ++t, ++k)
          emit(offset + k, base + r * in.tiles_x() + extent.x + t, row, slot + k);
      }
    }
  }
  for (unsigned many = __ballot_sync(kAll, count > kManyTiles); many; many &= many - 1) {
    const int from = __ffs(many) - 1;
    const int its_row = __shfl_sync(kAll, row, from), its_base = __shfl_sync(kAll, base, from);
    const int its_slot = __shfl_sync(kAll, slot, from), at = __shfl_sync(kAll, offset, from);
    const TileRows tiles(in, splats.splats[its_row]);
    int k = 0;
    for (int first = tiles.row0; first <= tiles.row1; first += 32) {
      const int r = first + lane;
      const int2 mine = r <= tiles.row1 ? tiles.extent(in, r) : int2{0, 0};
      const int rows = min(32, tiles.row1 - first + 1);
      for (int j = 0; j < rows; ++j) {
        const int start = __shfl_sync(kAll, mine.x, j), length = __shfl_sync(kAll, mine.y, j);
        for (int t = lane; t < length; t += 32)
          emit(at + k + t, its_base + (first + j) * in.tiles_x() + start + t, its_row,
               its_slot + k + t);
        k += length;
      }
    }
  }
}

// Where each tile's pairs begin and end, the pairs themselves, and the chunks' tiles.
__global__ void __launch_bounds__(kThreads)
    ranges_kernel(const BlendInputs in, const Totals* all_totals, const BlendState state,
                  const uint32_t* keys, const int32_t* emitted, const Pair* pairs,
                  int32_t* out_counts) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  const Totals totals = *all_totals;
  if (i == 0) {
    out_counts[0] = totals.splats;
    out_counts[1] = totals.pairs;
    out_counts[2] = totals.bad == kNoBad ? -1 : totals.bad / 8;
  }
  const int n = min(totals.pairs, in.capacity);
  if (i >= n) return;
  state.pairs[i] = pairs[emitted[i]];
  const uint32_t tile = keys[i];
  if (i == 0 || keys[i - 1] != tile) state.tile_starts[tile] = i;
  if (i == n - 1 || keys[i + 1] != tile) state.tile_ends[tile] = i + 1;
}

int blocks(int n) { return (n + kThreads - 1) / kThreads; }

int64_t rounded(int64_t bytes) { return (bytes + 255) / 256 * 256; }

// Hands out parts of one buffer; with a null buffer it only counts.
struct Parts {
  char* base;
  int64_t at = 0;
  template <class T>
  T* take(int64_t count) {
    T* part = reinterpret_cast<T*>(base + at);
    at += rounded(int64_t(sizeof(T)) * count);
    return part;
  }
};

Splats lay_out_splats(const BlendInputs& in, Parts& parts) {
  Splats s{};
  s.totals = parts.take<Totals>(1);
  s.splats = parts.take<Splat>(in.rows());
  s.values = parts.take<float>(int64_t(in.rows()) * in.padded_values());
  s.counts = parts.take<int32_t>(in.rows());
  s.slot_offsets = parts.take<int32_t>(in.rows());
  return s;
}

BlendState lay_out(const BlendInputs& in, bool keep_chunks, Parts& parts) {
  BlendState s{};
  s.tile_ends = parts.take<int32_t>(in.all_tiles());
  s.tile_starts = parts.take<int32_t>(in.all_tiles());
  s.walked = parts.take<int32_t>(in.all_tiles());
  s.pairs = parts.take<Pair>(in.capacity);
  if (!keep_chunks) return s;
  s.used = parts.take<uint32_t>(int64_t(in.capacity / 32 + in.all_tiles()) * kBlocks);
  s.chunk_tiles = parts.take<int32_t>(in.max_chunks());
  s.chunks = parts.take<float>(int64_t(in.max_chunks()) * (in.padded_values() + 1) * kTilePixels);
  return s;
}

int bits_for(uint32_t largest) { return ::cuda::std::bit_width(largest); }

size_t sort_bytes(const BlendInputs& in) {
  size_t depth = 0, scan = 0, tile = 0;
  cub::DoubleBuffer<uint32_t> keys;
  cub::DoubleBuffer<int32_t> values;
  cub::DeviceRadixSort::SortPairs(nullptr, depth, keys, values, in.rows(), 0, 32);
  const thrust::transform_iterator<CountOf, const int32_t*> counts(nullptr, CountOf{nullptr});
  size_t plain = 0;
  cub::DeviceScan::ExclusiveSum(nullptr, scan, counts, static_cast<int32_t*>(nullptr), in.rows());
  cub::DeviceScan::ExclusiveSum(nullptr, plain, static_cast<int32_t*>(nullptr),
                                static_cast<int32_t*>(nullptr), in.rows());
  cub::DeviceRadixSort::SortPairs(nullptr, tile, keys, values, in.capacity, 0,
                                  bits_for(in.all_tiles()));
  return max(max(depth, tile), max(scan, plain));
}

ListScratch lay_out_scratch(const BlendInputs& in, Parts& parts) {
  ListScratch s{};
  s.order = parts.take<int32_t>(2 * int64_t(in.rows()));
  s.offsets = parts.take<int32_t>(in.rows());
  s.tile_keys = parts.take<uint32_t>(2 * int64_t(in.capacity));
  s.emitted = parts.take<int32_t>(2 * int64_t(in.capacity));
  s.pairs = parts.take<Pair>(in.capacity);
  s.temporary_bytes = sort_bytes(in);
  s.temporary = parts.take<char>(s.temporary_bytes);
  return s;
}

template <class Make>
int64_t bytes_of(const Make& make) {
  Parts parts{nullptr};
  make(parts);
  return parts.at;
}

}  // namespace

int64_t splats_bytes(const BlendInputs& in) {
  return bytes_of([&](Parts& parts) { lay_out_splats(in, parts); });
}

Splats splats_view(const BlendInputs& in, void* buffer) {
  Parts parts{static_cast<char*>(buffer)};
  return lay_out_splats(in, parts);
}

int64_t state_bytes(const BlendInputs& in, bool keep_chunks) {
  return bytes_of([&](Parts& parts) { lay_out(in, keep_chunks, parts); });
}

BlendState state_view(const BlendInputs& in, bool keep_chunks, void* buffer) {
  Parts parts{static_cast<char*>(buffer)};
  return lay_out(in, keep_chunks, parts);
}

int64_t list_scratch_bytes(const BlendInputs& in) {
  return bytes_of([&](Parts& parts) { lay_out_scratch(in, parts); });
}

ListScratch list_scratch(const BlendInputs& in, void* buffer) {
  Parts parts{static_cast<char*>(buffer)};
  return lay_out_scratch(in, parts);
}

void pack(const BlendInputs& in, const Splats& out, uint32_t* depth_keys, cudaStream_t stream) {
  if (!depth_keys) {
    if (in.rows()) pack_kernel<<<blocks(in.rows()), kThreads, 0, stream>>>(in, out, nullptr);
    return;
  }
  clear_kernel<<<1, 1, 0, stream>>>(out.totals);
  if (in.rows()) pack_kernel<<<blocks(in.rows()), kThreads, 0, stream>>>(in, out, depth_keys);
}

void make_lists(const BlendInputs& in, const Splats& splats, const BlendState& state,
                const ListScratch& scratch, uint32_t* keys, int32_t* out_counts,
                cudaStream_t stream) {
  const int rows = in.rows();
  size_t bytes = scratch.temporary_bytes;
  cudaMemsetAsync(state.tile_starts, 0, sizeof(int32_t) * in.all_tiles(), stream);
  cudaMemsetAsync(state.tile_ends, 0, sizeof(int32_t) * in.all_tiles(), stream);
  cub::DoubleBuffer<uint32_t> tile_keys(scratch.tile_keys, scratch.tile_keys + in.capacity);
  cub::DoubleBuffer<int32_t> emitted(scratch.emitted, scratch.emitted + in.capacity);
  if (rows) {
    cub::DeviceScan::ExclusiveSum(scratch.temporary, bytes, splats.counts, splats.slot_offsets,
                                  rows, stream);
    iota_kernel<<<blocks(rows), kThreads, 0, stream>>>(rows, scratch.order);
    cub::DoubleBuffer<uint32_t> depth_keys(keys, keys + rows);
    cub::DoubleBuffer<int32_t> order(scratch.order, scratch.order + rows);
    bytes = scratch.temporary_bytes;
    cub::DeviceRadixSort::SortPairs(scratch.temporary, bytes, depth_keys, order, rows, 0, 32,
                                    stream);
    const thrust::transform_iterator<CountOf, const int32_t*> counts(order.Current(),
                                                                     CountOf{splats.counts});
    bytes = scratch.temporary_bytes;
    cub::DeviceScan::ExclusiveSum(scratch.temporary, bytes, counts, scratch.offsets, rows, stream);
    // Room that stays empty sorts behind every tile.
    cudaMemsetAsync(scratch.tile_keys, 0xff, sizeof(uint32_t) * in.capacity, stream);
    emit_kernel<<<blocks(rows), kThreads, 0, stream>>>(in, splats, scratch, order.Current());
    bytes = scratch.temporary_bytes;
    cub::DeviceRadixSort::SortPairs(scratch.temporary, bytes, tile_keys, emitted, in.capacity, 0,
                                    bits_for(in.all_tiles()), stream);
  }
  ranges_kernel<<<blocks(in.capacity), kThreads, 0, stream>>>(
      in, splats.totals, state, tile_keys.Current(), emitted.Current(), scratch.pairs, out_counts);
}

}  // namespace raster::cuda
