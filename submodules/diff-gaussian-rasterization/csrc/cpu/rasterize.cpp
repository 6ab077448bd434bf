// Drives the kernels over threads: depth order, tile lists, tiles, and the sums of the backward.
//
// Static parts belong to a thread by position, dynamic parts have their own place for what they
// write, so that the result does not depend on the number of threads.
#include <omp.h>

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

#include "kernels.h"

namespace raster {
namespace {

// Runs work(part, parts) for `parts` parts, however many threads the team really has.
template <typename Work>
void parallel(int parts, Work&& work) {
  if (parts <= 1) {
    work(0, 1);
    return;
  }
#pragma omp parallel num_threads(parts)
  for (int p = omp_get_thread_num(); p < parts; p += omp_get_num_threads()) work(p, parts);
}

// Memory of the process that only grows: a page's first touch costs more than its use.
template <typename T>
class Workspace {
 public:
  T* at_least(int64_t count) {
    if (count > int64_t(memory_.size())) memory_.resize(count + count / 4);
    return memory_.data();
  }

 private:
  std::vector<T> memory_;
};

struct ThreadMemory {
  std::vector<int32_t> tiles;  // of the pairs, in order
  std::vector<int32_t> histogram;
  char* scratch = nullptr;
  int64_t scratch_bytes = 0;
  ~ThreadMemory() { std::free(scratch); }
  void reserve_tiles(int64_t count) {
    if (count > int64_t(tiles.size())) tiles.resize(count + count / 2);
  }
  char* scratch_of(int64_t bytes) {
    if (bytes > scratch_bytes) {
      std::free(scratch);
      scratch = static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
      scratch_bytes = bytes;
    }
    return scratch;
  }
};

// One call at a time uses these.
struct Memory {
  std::mutex busy;
  Workspace<Key> keys, swap;
  Workspace<Splat> splats;
  Workspace<int64_t> counts;
  Workspace<int32_t> lengths;
  Workspace<float> slots;
  Workspace<char> lists;
  std::vector<ThreadMemory> threads;
};

Memory& memory() {
  static Memory* const m = new Memory;  // outlives the threads of other libraries
  return *m;
}

typedef float Float4 __attribute__((vector_size(16), may_alias));

uint32_t sortable(float depth) {
  uint32_t u;
  std::memcpy(&u, &depth, 4);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}

// Stable least-significant-digit radix sort; returns the array that holds the result.
Key* radix_sort(Key* keys, Key* swap, int64_t n) {
  constexpr int kBits = 11, kBuckets = 1 << kBits, kPasses = 3;
  static thread_local int32_t counts[kPasses][kBuckets];
  std::memset(counts, 0, sizeof counts);
  for (int64_t i = 0; i < n; ++i)
    for (int p = 0; p < kPasses; ++p) ++counts[p][keys[i].depth >> (p * kBits) & (kBuckets - 1)];
  for (int p = 0; p < kPasses; ++p) {
    int32_t* count = counts[p];
    if (n && count[keys[0].depth >> (p * kBits) & (kBuckets - 1)] == n) continue;
    int32_t total = 0;
    for (int b = 0; b < kBuckets; ++b) {
      const int32_t here = count[b];
      count[b] = total;
      total += here;
    }
    for (int64_t i = 0; i < n; ++i)
      swap[count[keys[i].depth >> (p * kBits) & (kBuckets - 1)]++] = keys[i];
    Key* other = keys;
    keys = swap;
    swap = other;
  }
  return keys;
}

struct Layout {
  int64_t sections, splats, values, tile_offsets, slot_offsets, pairs, masks, transmittance, last,
      bytes;
};

Layout layout(const BlendInputs& in, int64_t num_splats, int64_t num_pairs) {
  int64_t at = 64;
  const auto take = [&at](int64_t bytes) {
    const int64_t here = at;
    at += (bytes + 63) / 64 * 64;
    return here;
  };
  const int64_t pixels = in.num_sections * in.tiles() * kTilePixels;
  Layout l;
  l.sections = take(sizeof(Section) * in.num_sections);
  l.splats = take(sizeof(Splat) * num_splats);
  l.values = take(sizeof(float) * num_splats * in.padded_values());
  l.tile_offsets = take(sizeof(int64_t) * in.num_sections * (in.tiles() + 1));
  l.slot_offsets = take(sizeof(int64_t) * (num_splats + 1));
  l.pairs = take(sizeof(Pair) * num_pairs);
  l.masks = take(sizeof(uint64_t) * num_pairs);
  l.transmittance = take(sizeof(float) * pixels);
  l.last = take(sizeof(int32_t) * pixels);
  l.bytes = at;
  return l;
}

BlendState view_of(const Layout& l, char* base) {
  BlendState s;
  s.sections = reinterpret_cast<const Section*>(base + l.sections);
  s.splats = reinterpret_cast<Splat*>(base + l.splats);
  s.values = reinterpret_cast<float*>(base + l.values);
  s.tile_offsets = reinterpret_cast<int64_t*>(base + l.tile_offsets);
  s.slot_offsets = reinterpret_cast<int64_t*>(base + l.slot_offsets);
  s.pairs = reinterpret_cast<Pair*>(base + l.pairs);
  s.masks = reinterpret_cast<uint64_t*>(base + l.masks);
  s.transmittance = reinterpret_cast<float*>(base + l.transmittance);
  s.last = reinterpret_cast<int32_t*>(base + l.last);
  return s;
}

// Colours of a Gaussian and its depth, filled up with zeros.
void copy_values(const BlendInputs& in, const float* colors, int64_t first_row, int64_t gaussian,
                 float* value) {
  for (int d = 0; d < in.channels; ++d) value[d] = colors[gaussian * in.channels + d];
  for (int d = in.channels; d < in.padded_values(); ++d) value[d] = 0;
  if (in.depth == DepthMode::none) return;
  const float z = in.depths[first_row + gaussian];
  value[in.channels] = in.depth == DepthMode::linear ? z : 1.0f / z;
}

int64_t part(int64_t n, int i, int parts) { return n * i / parts; }

// Runs work(section, tile) for every tile; whoever is free takes the next few.
template <typename Work>
void over_tiles(const BlendInputs& in, int threads, Work&& work) {
  const int64_t total = in.num_sections * in.tiles();
  int64_t next = 0;
  parallel(threads, [&](int thread, int) {
    constexpr int64_t kGrab = 2;
    for (;;) {
      const int64_t begin = __atomic_fetch_add(&next, kGrab, __ATOMIC_RELAXED);
      if (begin >= total) break;
      const int64_t end = begin + kGrab < total ? begin + kGrab : total;
      for (int64_t i = begin; i < end; ++i) work(i / in.tiles(), i % in.tiles(), thread);
    }
  });
}

}  // namespace

int64_t project(const ProjectInputs& in, const Projected& out, int threads) {
  const Kernels& k = kernels();  // a wrong TWINSPLAT_ISA must throw outside the threads
  int64_t bad = -1;
  parallel(threads, [&](int thread, int count) {
    const int64_t mine = k.project(in, out, part(in.num_gaussians, thread, count),
                                   part(in.num_gaussians, thread + 1, count));
    if (mine >= 0) {
#pragma omp critical
      bad = bad < 0 || mine < bad ? mine : bad;
    }
  });
  return bad;
}

void project_backward(const ProjectInputs& in, const ProjectGradients& g, int threads) {
  parallel(threads, [&](int thread, int count) {
    kernels().project_backward(in, g, part(in.num_gaussians, thread, count),
                               part(in.num_gaussians, thread + 1, count));
  });
}

int slot_width(const BlendInputs& in) { return (kValues + in.values() + 3) / 4 * 4; }

void blend(const BlendInputs& in, const int64_t* set_sizes, int64_t num_sets, int64_t num_cameras,
           const BlendOutputs& out, Allocate allocate, void* context, int threads) {
  Memory& m = memory();
  const std::lock_guard<std::mutex> lock(m.busy);
  if (int(m.threads.size()) < threads) m.threads = std::vector<ThreadMemory>(threads);
  const int64_t tiles = in.tiles(), num_sections = in.num_sections;
  std::vector<Section> sections(num_sections);
  int64_t rows = 0;
  for (int64_t s = 0, first = 0; s < num_sets; first += set_sizes[s++])
    for (int64_t c = 0; c < num_cameras; ++c) {
      sections[s * num_cameras + c] = {first, set_sizes[s], c, rows, 0, 0, 0};
      rows += set_sizes[s];
    }

  // 1. Visible rows with their depths, each thread its part of every section.
  Key* keys = m.keys.at_least(rows);
  Key* swap = m.swap.at_least(rows);
  int64_t* counts = m.counts.at_least(num_sections * threads);
  for (int64_t i = 0; i < num_sections * threads; ++i) counts[i] = 0;
  parallel(threads, [&](int thread, int team) {
    for (int64_t s = 0; s < num_sections; ++s) {
      const Section& section = sections[s];
      const int64_t base = section.camera * in.num_gaussians + section.first_row;
      const int64_t begin = part(section.num_rows, thread, team),
                    end = part(section.num_rows, thread + 1, team);
      Key* to = keys + section.first_splat + begin;
      for (int64_t i = begin; i < end; ++i)
        if (in.radii[base + i] > 0) *to++ = {sortable(in.depths[base + i]), int32_t(i)};
      counts[s * threads + thread] = to - (keys + section.first_splat + begin);
    }
  });
  // 2. Depth order; then the sections move together.
  int64_t num_splats = 0;
  for (int64_t s = 0; s < num_sections; ++s) {
    Section& section = sections[s];
    Key* const begin = keys + section.first_splat;
    int64_t n = counts[s * threads];
    for (int t = 1; t < threads; ++t) {
      std::memmove(begin + n, begin + part(section.num_rows, t, threads),
                   sizeof(Key) * counts[s * threads + t]);
      n += counts[s * threads + t];
    }
    const Key* sorted = radix_sort(begin, swap + section.first_splat, n);
    std::memmove(keys + num_splats, sorted, sizeof(Key) * n);
    section.first_splat = num_splats;
    section.num_splats = n;
    num_splats += n;
  }

  // 3. Splats, and the tiles of each; a thread's parts are contiguous in depth order.
  Splat* splats = m.splats.at_least(num_splats);
  std::vector<int64_t> pair_counts(num_sections * threads + 1);
  int32_t* lengths = m.lengths.at_least(num_splats);
  parallel(threads, [&](int thread, int team) {
    ThreadMemory& mine = m.threads[thread];
    int64_t used = 0;
    mine.histogram.assign(num_sections * tiles, 0);
    for (int64_t s = 0; s < num_sections; ++s) {
      const Section& section = sections[s];
      const int64_t base = section.camera * in.num_gaussians + section.first_row;
      int32_t* histogram = mine.histogram.data() + s * tiles;
      const int64_t before = used;
      const int64_t end = section.first_splat + part(section.num_splats, thread + 1, team);
      int64_t i = section.first_splat + part(section.num_splats, thread, team);
      while (i < end) {
        mine.reserve_tiles(used + tiles + 4 * (end - i));
        i = kernels().bin(in, base, keys, i, end, splats, lengths, histogram, mine.tiles.data(),
                          mine.tiles.size(), &used);
      }
      pair_counts[s * threads + thread] = used - before;
    }
  });
  int64_t num_pairs = 0;
  for (int64_t s = 0; s < num_sections; ++s) {
    sections[s].first_pair = num_pairs;
    for (int t = 0; t < threads; ++t) {
      const int64_t here = pair_counts[s * threads + t];
      pair_counts[s * threads + t] = num_pairs;
      num_pairs += here;
    }
    sections[s].num_pairs = num_pairs - sections[s].first_pair;
  }

  // 4. Pairs into tile lists: a thread's pairs come after those of the threads before it.
  const Layout places = layout(in, num_splats, num_pairs);
  char* const base = static_cast<char*>(allocate(context, places.bytes));
  int64_t header[8] = {
      num_splats, num_pairs, num_sections, in.num_gaussians, tiles, in.padded_values(), 0, 0};
  for (const int64_t end :
       {places.sections, places.splats, places.values, places.tile_offsets, places.slot_offsets,
        places.pairs, places.masks, places.transmittance, places.last, places.bytes})
    std::memset(base + end - 64, 0, 64);  // gaps between the arrays: equal calls leave equal bytes
  std::memcpy(base, header, sizeof header);
  std::memcpy(base + places.sections, sections.data(), sizeof(Section) * num_sections);
  const BlendState state = view_of(places, base);
  for (int64_t s = 0; s < num_sections; ++s) {
    int64_t at = sections[s].first_pair;
    int64_t* offsets = state.tile_offsets + s * (tiles + 1);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      offsets[tile] = at;
      for (int t = 0; t < threads; ++t) {
        int32_t& bucket = m.threads[t].histogram[s * tiles + tile];
        const int32_t here = bucket;
        bucket = int32_t(at - sections[s].first_pair);
        at += here;
      }
    }
    offsets[tiles] = at;
  }
  state.slot_offsets[num_splats] = num_pairs;
  parallel(threads, [&](int thread, int team) {
    ThreadMemory& mine = m.threads[thread];
    const int32_t* tile = mine.tiles.data();
    const int padded = in.padded_values();
    for (int64_t s = 0; s < num_sections; ++s) {
      const Section& section = sections[s];
      const int64_t row = section.camera * in.num_gaussians + section.first_row;
      const float* colors =
          in.colors + section.camera * in.colors_camera_stride + section.first_row * in.channels;
      int32_t* cursor = mine.histogram.data() + s * tiles;
      Pair* pairs = state.pairs + section.first_pair;
      int64_t slot = pair_counts[s * threads + thread];
      const int64_t end = section.first_splat + part(section.num_splats, thread + 1, team);
      for (int64_t i = section.first_splat + part(section.num_splats, thread, team); i < end; ++i) {
        state.splats[i] = splats[i];
        copy_values(in, colors, row, splats[i].gaussian, state.values + i * padded);
        state.slot_offsets[i] = slot;
        for (int32_t k = 0; k < lengths[i]; ++k, ++slot, ++tile)
          pairs[cursor[*tile]++] = {int32_t(i - section.first_splat),
                                    int32_t(slot - section.first_pair)};
      }
    }
  });

  // 5. Tiles.
  const int64_t bytes = kernels().scratch_bytes(in);
  for (int t = 0; t < threads; ++t) m.threads[t].scratch_of(bytes);
  over_tiles(in, threads, [&](int64_t section, int64_t tile, int thread) {
    kernels().blend_tile(in, state, out, section, tile, m.threads[thread].scratch);
  });
}

void blend_shared(const BlendInputs& in, const void* lists, int64_t bytes, const BlendOutputs& out,
                  int threads) {
  Memory& m = memory();
  const std::lock_guard<std::mutex> lock(m.busy);
  if (int(m.threads.size()) < threads) m.threads = std::vector<ThreadMemory>(threads);
  // Vectors are loaded from it as from a state, which begins on a cache line.
  char* const room = m.lists.at_least(bytes + 64);
  char* const buffer = room + (-reinterpret_cast<uintptr_t>(room) & 63);
  std::memcpy(buffer, lists, bytes);
  int64_t header[8];
  std::memcpy(header, buffer, sizeof header);
  const BlendState state = view_of(layout(in, header[0], header[1]), buffer);
  parallel(threads, [&](int thread, int team) {
    for (int64_t s = 0; s < in.num_sections; ++s) {
      const Section& section = state.sections[s];
      const int64_t row = section.camera * in.num_gaussians + section.first_row;
      const float* colors =
          in.colors + section.camera * in.colors_camera_stride + section.first_row * in.channels;
      const int64_t end = section.first_splat + part(section.num_splats, thread + 1, team);
      for (int64_t i = section.first_splat + part(section.num_splats, thread, team); i < end; ++i) {
        const int32_t gaussian = state.splats[i].gaussian;
        if (in.radii[row + gaussian] > 0)
          state.splats[i] = kernels().pack(in, row + gaussian, gaussian);
        else  // seen by the others only: it draws nothing
          state.splats[i].log_opacity = state.splats[i].threshold = -1000.0f;
        copy_values(in, colors, row, gaussian, state.values + i * in.padded_values());
      }
    }
  });
  const int64_t scratch = kernels().scratch_bytes(in);
  for (int t = 0; t < threads; ++t) m.threads[t].scratch_of(scratch);
  over_tiles(in, threads, [&](int64_t section, int64_t tile, int thread) {
    kernels().blend_tile(in, state, out, section, tile, m.threads[thread].scratch);
  });
}

void blend_backward(const BlendInputs& in, void* buffer, const BlendGradients& gradients,
                    int threads) {
  Memory& m = memory();
  const std::lock_guard<std::mutex> lock(m.busy);
  if (int(m.threads.size()) < threads) m.threads = std::vector<ThreadMemory>(threads);
  int64_t header[8];
  std::memcpy(header, buffer, sizeof header);
  const int64_t num_splats = header[0], num_pairs = header[1];
  const BlendState state = view_of(layout(in, num_splats, num_pairs), static_cast<char*>(buffer));
  BlendGradients g = gradients;
  g.slot_width = slot_width(in);
  g.slots = m.slots.at_least(num_pairs * g.slot_width);
  const int64_t bytes = kernels().scratch_bytes(in);
  for (int t = 0; t < threads; ++t) m.threads[t].scratch_of(bytes);
  over_tiles(in, threads, [&](int64_t section, int64_t tile, int thread) {
    kernels().blend_tile_backward(in, state, g, section, tile, m.threads[thread].scratch);
  });

  parallel(threads, [&](int thread, int team) {
    std::vector<float> totals(g.slot_width);
    const float* const total = totals.data();
    const Float4* const slots = reinterpret_cast<const Float4*>(g.slots);
    const int quads = g.slot_width / 4;
    for (int64_t s = 0; s < in.num_sections; ++s) {
      const Section& section = state.sections[s];
      const int64_t base = section.camera * in.num_gaussians + section.first_row;
      const int64_t end = section.first_splat + part(section.num_splats, thread + 1, team);
      for (int64_t i = section.first_splat + part(section.num_splats, thread, team); i < end; ++i) {
        if (i + 8 < end) {
          const int64_t soon = base + state.splats[i + 8].gaussian;
          __builtin_prefetch(in.conics + 3 * soon);
          __builtin_prefetch(in.opacities + soon);
          __builtin_prefetch(g.v_colors + soon * in.channels, 1);
          if (g.geometry) {
            __builtin_prefetch(g.v_means2d + 2 * soon, 1);
            __builtin_prefetch(g.v_conics + 3 * soon, 1);
            __builtin_prefetch(g.v_opacities + soon, 1);
          }
        }
        for (int f = 0; f < quads; ++f) {
          Float4 sum = {0, 0, 0, 0};
          for (int64_t k = state.slot_offsets[i]; k < state.slot_offsets[i + 1]; ++k)
            sum += slots[k * quads + f];
          __builtin_memcpy(totals.data() + 4 * f, &sum, sizeof sum);
        }
        const int64_t row = base + state.splats[i].gaussian;
        for (int d = 0; d < in.channels; ++d)
          g.v_colors[row * in.channels + d] = total[kValues + d];
        if (!g.geometry) continue;
        // The sums are of -dL/dq.
        const float* conic = in.conics + 3 * row;
        g.v_means2d[2 * row] = conic[0] * total[kSumX] + conic[1] * total[kSumY];
        g.v_means2d[2 * row + 1] = conic[1] * total[kSumX] + conic[2] * total[kSumY];
        g.v_conics[3 * row] = -0.5f * total[kSumXX];
        g.v_conics[3 * row + 1] = -total[kSumXY];
        g.v_conics[3 * row + 2] = -0.5f * total[kSumYY];
        g.v_opacities[row] = total[kSum] / in.opacities[row];
        if (in.depth != DepthMode::none) {
          const float v = total[kValues + in.channels], z = in.depths[row];
          g.v_depths[row] = in.depth == DepthMode::linear ? v : -v / (z * z);
        }
        if (g.absolute) {
          g.v_absolute[2 * row] = total[kAbsX];
          g.v_absolute[2 * row + 1] = total[kAbsY];
        }
      }
    }
  });
}

}  // namespace raster
