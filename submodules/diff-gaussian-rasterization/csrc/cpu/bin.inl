// Splats as the blend reads them, and the tiles that each may touch.

namespace {

inline raster::Splat pack(const raster::BlendInputs& in, int64_t row, int32_t gaussian) {
  constexpr float kLog2e = 1.44269504f, kLog2Of255 = 7.9943534f;
  const float* xy = in.means2d + 2 * row;
  const float* conic = in.conics + 3 * row;
  raster::Splat s;
  s.x = xy[0], s.y = xy[1];
  s.a = 0.5f * kLog2e * conic[0], s.b = kLog2e * conic[1], s.c = 0.5f * kLog2e * conic[2];
  s.log_opacity = __builtin_log2f(in.opacities[row]);
  // A little more than the ellipse of alpha = 1/255: pixels decide by their alpha.
  s.threshold = s.log_opacity + kLog2Of255 + 1e-3f;
  s.gaussian = gaussian;
  return s;
}

inline float at_least(float a, float low) { return a > low ? a : low; }
inline float at_most(float a, float high) { return a < high ? a : high; }

// Appends the tiles whose pixel centres the ellipse a x^2 + b x y + c y^2 <= threshold may reach,
// row by row from its exact extent in that row; returns how many.
inline int visit_tiles(const raster::BlendInputs& in, const raster::Splat& s, int32_t* tiles) {
  constexpr float kTile = raster::kTile, kPerTile = 1.0f / raster::kTile, kSlack = 1e-3f;
  const float t = s.threshold;
  if (!(t > 0)) return 0;
  const float ac = 4.0f * s.a * s.c;
  // The determinant's own rounding is taken off, to stay on the safe side.
  const float det = at_least(ac - s.b * s.b - 4e-7f * ac, 1e-6f * ac);
  const float t_over_det = 4.0f * t / det;
  const float half_height = __builtin_sqrtf(s.a * t_over_det);
  const int tiles_x = in.tiles_x(), tiles_y = in.tiles_y();
  const int row0 = int(at_least((s.y - half_height - 0.5f) * kPerTile, 0.0f));
  const int row1 =
      int(__builtin_floorf(at_most((s.y + half_height - 0.5f) * kPerTile, float(tiles_y - 1))));
  if (row1 < row0) return 0;
  // Where the ellipse reaches furthest right; it reaches furthest left at the opposite point.
  const float y_right = -0.5f * s.b / s.c * __builtin_sqrtf(s.c * t_over_det);
  const float half_over_a = 0.5f / s.a, full = 4.0f * s.a * t;
  int count = 0;
  for (int row = row0; row <= row1; ++row) {
    const float y0 = float(row) * kTile + 0.5f - s.y, y1 = y0 + (kTile - 1);
    const float yr = at_most(at_least(y_right, y0), y1), yl = at_most(at_least(-y_right, y0), y1);
    const float right =
        s.x + (__builtin_sqrtf(at_least(full - yr * yr * det, 0.0f)) - s.b * yr) * half_over_a;
    const float left =
        s.x - (__builtin_sqrtf(at_least(full - yl * yl * det, 0.0f)) + s.b * yl) * half_over_a;
    const int first =
        int(at_least(__builtin_ceilf((left - (kTile - 0.5f) - kSlack) * kPerTile), 0.0f));
    const int last =
        int(__builtin_floorf(at_most((right - 0.5f + kSlack) * kPerTile, float(tiles_x - 1))));
    for (int tile = first; tile <= last; ++tile) tiles[count++] = row * tiles_x + tile;
  }
  return count;
}

int64_t bin(const raster::BlendInputs& in, int64_t base, const raster::Key* keys, int64_t begin,
            int64_t end, raster::Splat* splats, int32_t* lengths, int32_t* histogram,
            int32_t* tiles, int64_t capacity, int64_t* used) {
  int64_t i = begin;
  for (; i < end && capacity - *used >= in.tiles(); ++i) {
    if (i + 8 < end) {
      const int64_t soon = base + keys[i + 8].row;
      __builtin_prefetch(in.means2d + 2 * soon);
      __builtin_prefetch(in.conics + 3 * soon);
      __builtin_prefetch(in.opacities + soon);
    }
    splats[i] = pack(in, base + keys[i].row, keys[i].row);
    const int count = visit_tiles(in, splats[i], tiles + *used);
    for (int k = 0; k < count; ++k) ++histogram[tiles[*used + k]];
    lengths[i] = count;
    *used += count;
  }
  return i;
}

}  // namespace
