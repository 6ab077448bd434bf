// The blend of one tile, forward and backward, for the instruction set of the including file.
//
// A tile is 16x16 pixels in blocks of one vector each. Forward: for every block, walk the splats
// whose ellipse touches it with the pixel state in registers. Backward: for every splat, back to
// front, visit its blocks with the sums of its gradients in registers.

namespace {

constexpr int kBlocksX = raster::kTile / kBlockWidth;
constexpr int kBlocks = raster::kTilePixels / kLanes;
constexpr int kChunk = 256;  // splats that are culled and sorted into blocks at a time
constexpr int kAhead = 8;    // pairs whose splat is fetched before it is needed
constexpr float kLn2 = 0.69314718f;

struct alignas(64) Lanes {
  float x[kLanes], y[kLanes];
};

inline Lanes lane_centres() {
  Lanes lanes;
  for (int i = 0; i < kLanes; ++i) {
    lanes.x[i] = float(i % kBlockWidth) + 0.5f;
    lanes.y[i] = float(i / kBlockWidth) + 0.5f;
  }
  return lanes;
}

// Left and top pixel centres of every block, relative to the tile.
struct alignas(64) BlockCentres {
  float x[kBlocks], y[kBlocks];
};

inline BlockCentres block_centres() {
  BlockCentres c;
  for (int b = 0; b < kBlocks; ++b) {
    c.x[b] = float(b % kBlocksX * kBlockWidth) + 0.5f;
    c.y[b] = float(b / kBlocksX * kBlockHeight) + 0.5f;
  }
  return c;
}

// Blocks in which the quadratic form gets below the splat's threshold: its exact minimum over the
// rectangle of pixel centres lies at the centre or on one of the two edges that face it.
inline uint64_t touched_blocks(const raster::Splat& s, float tile_x, float tile_y,
                               const BlockCentres& c) {
  const F a = set1(s.a), b = set1(s.b), cc = set1(s.c), zero = set1(0.0f);
  const F y_per_x = set1(-0.5f * s.b / s.c), x_per_y = set1(-0.5f * s.b / s.a);
  const F ox = set1(tile_x - s.x), oy = set1(tile_y - s.y);
  const F threshold = set1(s.threshold);
  uint64_t mask = 0;
  for (int i = 0; i < kBlocks; i += kLanes) {
    const F x0 = add(load(c.x + i), ox), y0 = add(load(c.y + i), oy);
    const F x1 = add(x0, set1(kBlockWidth - 1.0f)), y1 = add(y0, set1(kBlockHeight - 1.0f));
    const F xe = clamp(zero, x0, x1), ye = clamp(zero, y0, y1);
    const F yv = clamp(mul(xe, y_per_x), y0, y1), xh = clamp(mul(ye, x_per_y), x0, x1);
    const F qv = fma(xe, fma(b, yv, mul(a, xe)), mul(cc, mul(yv, yv)));
    const F qh = fma(xh, fma(b, ye, mul(a, xh)), mul(cc, mul(ye, ye)));
    mask |= uint64_t(bits(ge(threshold, min(qv, qh)))) << i;
  }
  return mask;
}

// alpha before the clamp at 0.99; the same instructions forward and backward.
inline F raw_alpha(const raster::Splat& s, F dx, F dy) {
  const F t = fma(set1(s.b), dy, mul(set1(s.a), dx));
  const F u = fnma(mul(set1(s.c), dy), dy, set1(s.log_opacity));
  return exp2(max(fnma(dx, t, u), set1(-100.0f)));
}

inline int64_t rounded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

int64_t scratch_bytes(const raster::BlendInputs& in) {
  const int64_t values = in.padded_values();
  const int64_t forward = rounded(sizeof(float) * raster::kTilePixels * (values + 3)) +
                          rounded(sizeof(raster::Splat) * kChunk) +
                          rounded(sizeof(float) * values * kChunk) + rounded(2 * kChunk) +
                          2 * rounded(sizeof(uint64_t) * kChunk);
  const int64_t backward = rounded(sizeof(float) * raster::kTilePixels * (values + 3)) +
                           rounded(sizeof(float) * kLanes * values);
  return forward > backward ? forward : backward;
}

struct Scratch {
  char* at;
  template <typename T>
  T* take(int64_t count) {
    T* p = reinterpret_cast<T*>(at);
    at += rounded(int64_t(sizeof(T)) * count);
    return p;
  }
};

// Writes a tile's vectors, which lie in block order, into an image of `stride` floats a pixel.
inline void write_plane(const raster::BlendInputs& in, int64_t tile, const float* plane,
                        float* image, int stride) {
  const int x0 = int(tile % in.tiles_x()) * raster::kTile,
            y0 = int(tile / in.tiles_x()) * raster::kTile;
  for (int b = 0; b < kBlocks; ++b) {
    const int bx = x0 + b % kBlocksX * kBlockWidth, by = y0 + b / kBlocksX * kBlockHeight;
    for (int i = 0; i < kLanes; ++i) {
      const int x = bx + i % kBlockWidth, y = by + i / kBlockWidth;
      if (x < in.width && y < in.height)
        image[(int64_t(y) * in.width + x) * stride] = plane[b * kLanes + i];
    }
  }
}

// The reverse; pixels outside the image read as zero.
inline void read_plane(const raster::BlendInputs& in, int64_t tile, const float* image, int stride,
                       float* plane) {
  const int x0 = int(tile % in.tiles_x()) * raster::kTile,
            y0 = int(tile / in.tiles_x()) * raster::kTile;
  for (int b = 0; b < kBlocks; ++b) {
    const int bx = x0 + b % kBlocksX * kBlockWidth, by = y0 + b / kBlocksX * kBlockHeight;
    for (int i = 0; i < kLanes; ++i) {
      const int x = bx + i % kBlockWidth, y = by + i / kBlockWidth;
      plane[b * kLanes + i] =
          x < in.width && y < in.height ? image[(int64_t(y) * in.width + x) * stride] : 0.0f;
    }
  }
}

template <int D>  // values a pixel; 0: read from the inputs
void blend_tile(const raster::BlendInputs& in, const raster::BlendState& state,
                const raster::BlendOutputs& out, int64_t section, int64_t tile, void* memory) {
  static const Lanes lanes = lane_centres();
  static const BlockCentres centres = block_centres();
  constexpr int P = raster::kTilePixels;
  const int values = D ? D : in.values(), padded = in.padded_values();
  Scratch scratch{static_cast<char*>(memory)};
  float* T = scratch.take<float>(P);
  float* last = scratch.take<float>(P);
  float* alive = scratch.take<float>(P);  // 1, or 0 once the pixel has stopped
  float* sums = scratch.take<float>(int64_t(P) * padded);
  raster::Splat* splats = scratch.take<raster::Splat>(kChunk);
  float* colors = scratch.take<float>(int64_t(kChunk) * padded);
  uint16_t* list = scratch.take<uint16_t>(kChunk);
  uint64_t* touched = scratch.take<uint64_t>(kChunk);
  uint64_t* used = scratch.take<uint64_t>(kChunk);

  const int tx = int(tile % in.tiles_x()) * raster::kTile,
            ty = int(tile / in.tiles_x()) * raster::kTile;
  const int64_t* offsets = state.tile_offsets + section * (in.tiles() + 1) + tile;
  const int64_t first = offsets[0], count = offsets[1] - first;
  uint64_t live_blocks = 0;
  for (int i = 0; i < P; ++i) T[i] = 1.0f, last[i] = 0.0f;
  for (int i = 0; i < P * values; ++i) sums[i] = 0.0f;
  for (int b = 0; b < kBlocks; ++b) {
    const int bx = tx + b % kBlocksX * kBlockWidth, by = ty + b / kBlocksX * kBlockHeight;
    for (int i = 0; i < kLanes; ++i) {
      const bool inside = bx + i % kBlockWidth < in.width && by + i / kBlockWidth < in.height;
      alive[b * kLanes + i] = inside ? 1.0f : 0.0f;
    }
    if (bx < in.width && by < in.height) live_blocks |= uint64_t(1) << b;
  }

  const int64_t first_splat = state.sections[section].first_splat;
  const F one = set1(1.0f);
  int64_t start = 0;
  for (; start < count && live_blocks; start += kChunk) {
    const int n = int(count - start < kChunk ? count - start : kChunk);
    for (int i = 0; i < n; ++i) {
      const int64_t rank = first_splat + state.pairs[first + start + i].rank;
      if (start + i + kAhead < count) {
        const int64_t soon = first_splat + state.pairs[first + start + i + kAhead].rank;
        __builtin_prefetch(state.splats + soon);
        __builtin_prefetch(state.values + soon * padded);
      }
      splats[i] = state.splats[rank];
      for (int d = 0; d < padded; ++d) colors[i * padded + d] = state.values[rank * padded + d];
      touched[i] = touched_blocks(splats[i], float(tx), float(ty), centres) & live_blocks;
      used[i] = 0;
    }
    for (int b = 0; b < kBlocks; ++b) {
      if (!(live_blocks >> b & 1)) continue;
      int length = 0;
      for (int i = 0; i < n; ++i) {
        list[length] = uint16_t(i);
        length += int(touched[i] >> b & 1);
      }
      if (!length) continue;
      float* block_sums = sums + b * kLanes * values;
      const F px = add(load(lanes.x), set1(float(tx + b % kBlocksX * kBlockWidth)));
      const F py = add(load(lanes.y), set1(float(ty + b / kBlocksX * kBlockHeight)));
      F t = load(T + b * kLanes), l = load(last + b * kLanes);
      M live = lt(set1(0.5f), load(alive + b * kLanes));
      F acc[D ? D : 1];
      if constexpr (D > 0)
        for (int d = 0; d < D; ++d) acc[d] = load(block_sums + d * kLanes);
      for (int k = 0; k < length; ++k) {
        const int i = list[k];
        const raster::Splat& s = splats[i];
        const F alpha =
            min(raw_alpha(s, sub(px, set1(s.x)), sub(py, set1(s.y))), set1(raster::kMaxAlpha));
        M ok = both(live, ge(alpha, set1(raster::kMinAlpha)));
        const F weight = mul(alpha, t);
        const M stop = both(ok, lt(sub(t, weight), set1(raster::kMinTransmittance)));
        live = but_not(live, stop);
        ok = but_not(ok, stop);
        const F w = keep(ok, weight);
        t = sub(t, w);
        l = select(ok, set1(float(start + i + 1)), l);
        used[i] |= uint64_t(any(ok)) << b;
        if constexpr (D > 0) {
          for (int d = 0; d < D; ++d) acc[d] = fma(w, set1(colors[i * padded + d]), acc[d]);
        } else {
          for (int d = 0; d < values; ++d)
            store(block_sums + d * kLanes,
                  fma(w, set1(colors[i * padded + d]), load(block_sums + d * kLanes)));
        }
        if (!any(live)) {
          live_blocks &= ~(uint64_t(1) << b);
          break;
        }
      }
      if constexpr (D > 0)
        for (int d = 0; d < D; ++d) store(block_sums + d * kLanes, acc[d]);
      store(T + b * kLanes, t);
      store(last + b * kLanes, l);
      store(alive + b * kLanes, keep(live, one));
    }
    for (int i = 0; i < n; ++i) state.masks[first + start + i] = used[i];
  }
  for (; start < count; ++start) state.masks[first + start] = 0;

  const int64_t pixels = (section * in.tiles() + tile) * P;
  for (int i = 0; i < P; ++i) {
    state.transmittance[pixels + i] = T[i];
    state.last[pixels + i] = int32_t(last[i]);
  }
  const int64_t image = int64_t(in.width) * in.height * section;
  const int64_t camera = state.sections[section].camera;
  alignas(64) float plane[P];
  for (int d = 0; d < values; ++d) {
    const bool is_depth = d == in.channels;
    const float background =
        in.backgrounds && !is_depth ? in.backgrounds[camera * in.channels + d] : 0.0f;
    for (int b = 0; b < kBlocks; ++b)
      store(plane + b * kLanes,
            fma(load(T + b * kLanes), set1(background), load(sums + (b * values + d) * kLanes)));
    if (is_depth)
      write_plane(in, tile, plane, out.depth + image, 1);
    else
      write_plane(in, tile, plane, out.color + image * in.channels + d, in.channels);
  }
  for (int i = 0; i < P; ++i) plane[i] = 1.0f - T[i];
  write_plane(in, tile, plane, out.alpha + image, 1);
}

template <int D, bool Geometry, bool Absolute>
void blend_tile_backward(const raster::BlendInputs& in, const raster::BlendState& state,
                         const raster::BlendGradients& g, int64_t section, int64_t tile,
                         void* memory) {
  static const Lanes lanes = lane_centres();
  constexpr int P = raster::kTilePixels;
  const int values = D ? D : in.values(), padded = in.padded_values();
  Scratch scratch{static_cast<char*>(memory)};
  float* T = scratch.take<float>(P);
  float* behind = scratch.take<float>(P);  // upstream gradient times what is seen behind, so far
  float* last = scratch.take<float>(P);
  float* v = scratch.take<float>(int64_t(P) * padded);
  float* spill = scratch.take<float>(int64_t(kLanes) * padded);

  const int tx = int(tile % in.tiles_x()) * raster::kTile,
            ty = int(tile / in.tiles_x()) * raster::kTile;
  const int64_t* offsets = state.tile_offsets + section * (in.tiles() + 1) + tile;
  const int64_t first = offsets[0], count = offsets[1] - first;
  if (!count) return;
  const int64_t pixels = (section * in.tiles() + tile) * P;
  const int64_t image = int64_t(in.width) * in.height * section;
  const int64_t camera = state.sections[section].camera;
  int64_t longest = 0;
  for (int i = 0; i < P; ++i) {
    T[i] = state.transmittance[pixels + i];
    last[i] = float(state.last[pixels + i]);
    longest = longest > state.last[pixels + i] ? longest : state.last[pixels + i];
  }
  alignas(64) float plane[P];
  if (g.alpha) {
    read_plane(in, tile, g.alpha + image, 1, plane);
    for (int i = 0; i < P; ++i) behind[i] = -plane[i];
  } else {
    for (int i = 0; i < P; ++i) behind[i] = 0.0f;
  }
  for (int d = 0; d < values; ++d) {
    const bool is_depth = d == in.channels;
    if (is_depth) {
      if (g.depth)
        read_plane(in, tile, g.depth + image, 1, plane);
      else
        for (int i = 0; i < P; ++i) plane[i] = 0.0f;
    } else {
      read_plane(in, tile, g.color + image * in.channels + d, in.channels, plane);
    }
    const float background =
        in.backgrounds && !is_depth ? in.backgrounds[camera * in.channels + d] : 0.0f;
    for (int i = 0; i < P; ++i) behind[i] += background * plane[i];
    for (int b = 0; b < kBlocks; ++b)
      store(v + (b * values + d) * kLanes, load(plane + b * kLanes));
  }
  for (int i = 0; i < P; ++i) behind[i] *= T[i];

  const int64_t first_splat = state.sections[section].first_splat;
  const int width = g.slot_width;
  for (int64_t i = count - 1; i >= 0; --i) {
    const raster::Pair pair = state.pairs[first + i];
    float* slot = g.slots + (state.sections[section].first_pair + pair.slot) * width;
    if (i >= kAhead) {
      const raster::Pair& soon = state.pairs[first + i - kAhead];
      __builtin_prefetch(state.splats + first_splat + soon.rank);
      __builtin_prefetch(state.values + (first_splat + soon.rank) * padded);
      __builtin_prefetch(g.slots + (state.sections[section].first_pair + soon.slot) * width, 1);
    }
    uint64_t mask = i < longest ? state.masks[first + i] : 0;
    if (!mask) {
      for (int k = 0; k < width; ++k) slot[k] = 0.0f;
      continue;
    }
    const raster::Splat& s = state.splats[first_splat + pair.rank];
    const float* color = state.values + (first_splat + pair.rank) * padded;
    const F zero = set1(0.0f), one = set1(1.0f);
    F m0 = zero, mx = zero, my = zero, mxx = zero, mxy = zero, myy = zero, ax = zero, ay = zero;
    F acc[D ? D : 1];
    if constexpr (D > 0)
      for (int d = 0; d < D; ++d) acc[d] = zero;
    else
      for (int d = 0; d < values; ++d) store(spill + d * kLanes, zero);
    const F position = set1(float(i));
    do {
      const int b = __builtin_ctzll(mask);
      mask &= mask - 1;
      const F px = add(load(lanes.x), set1(float(tx + b % kBlocksX * kBlockWidth)));
      const F py = add(load(lanes.y), set1(float(ty + b / kBlocksX * kBlockHeight)));
      const F ex = sub(px, set1(s.x)), ey = sub(py, set1(s.y));
      const F raw = raw_alpha(s, ex, ey);
      const F clamped = min(raw, set1(raster::kMaxAlpha));
      const M ok =
          both(lt(position, load(last + b * kLanes)), ge(clamped, set1(raster::kMinAlpha)));
      const F alpha = keep(ok, clamped);
      const F inverse = reciprocal(sub(one, alpha));
      const F t = mul(load(T + b * kLanes), inverse);
      const F w = mul(alpha, t);
      store(T + b * kLanes, t);
      const float* vb = v + b * kLanes * values;
      if constexpr (Geometry) {
        F dot = zero;
        for (int d = 0; d < values; ++d) dot = fma(set1(color[d]), load(vb + d * kLanes), dot);
        const F s_behind = load(behind + b * kLanes);
        const F v_alpha = fnma(s_behind, inverse, mul(t, dot));
        store(behind + b * kLanes, fma(w, dot, s_behind));
        const F m = keep(lt(raw, set1(raster::kMaxAlpha)), mul(alpha, v_alpha));
        const F x = mul(m, ex), y = mul(m, ey);
        m0 = add(m0, m);
        mx = add(mx, x);
        my = add(my, y);
        mxx = fma(x, ex, mxx);
        mxy = fma(x, ey, mxy);
        myy = fma(y, ey, myy);
        if constexpr (Absolute) {
          ax = add(ax, abs(fma(set1(2.0f * s.a), x, mul(set1(s.b), y))));
          ay = add(ay, abs(fma(set1(2.0f * s.c), y, mul(set1(s.b), x))));
        }
      }
      if constexpr (D > 0)
        for (int d = 0; d < D; ++d) acc[d] = fma(w, load(vb + d * kLanes), acc[d]);
      else
        for (int d = 0; d < values; ++d)
          store(spill + d * kLanes, fma(w, load(vb + d * kLanes), load(spill + d * kLanes)));
    } while (mask);
    sums4(m0, mx, my, mxx, slot);
    sums4(mxy, myy, mul(ax, set1(kLn2)), mul(ay, set1(kLn2)), slot + 4);
    if constexpr (D == 3 || D == 4) {
      sums4(acc[0], acc[1], acc[2], D == 4 ? acc[D - 1] : zero, slot + raster::kValues);
    } else {
      for (int d = 0; d < values; ++d) slot[raster::kValues + d] = sum(load(spill + d * kLanes));
      for (int d = values + raster::kValues; d < width; ++d) slot[d] = 0.0f;
    }
  }
}

void blend_any(const raster::BlendInputs& in, const raster::BlendState& state,
               const raster::BlendOutputs& out, int64_t section, int64_t tile, void* memory) {
  switch (in.values()) {
    case 3:
      return blend_tile<3>(in, state, out, section, tile, memory);
    case 4:
      return blend_tile<4>(in, state, out, section, tile, memory);
    default:
      return blend_tile<0>(in, state, out, section, tile, memory);
  }
}

template <int D>
void blend_backward_values(const raster::BlendInputs& in, const raster::BlendState& state,
                           const raster::BlendGradients& g, int64_t section, int64_t tile,
                           void* memory) {
  if (!g.geometry) return blend_tile_backward<D, false, false>(in, state, g, section, tile, memory);
  if (g.absolute) return blend_tile_backward<D, true, true>(in, state, g, section, tile, memory);
  return blend_tile_backward<D, true, false>(in, state, g, section, tile, memory);
}

void blend_backward_any(const raster::BlendInputs& in, const raster::BlendState& state,
                        const raster::BlendGradients& g, int64_t section, int64_t tile,
                        void* memory) {
  switch (in.values()) {
    case 3:
      return blend_backward_values<3>(in, state, g, section, tile, memory);
    case 4:
      return blend_backward_values<4>(in, state, g, section, tile, memory);
    default:
      return blend_backward_values<0>(in, state, g, section, tile, memory);
  }
}

}  // namespace
