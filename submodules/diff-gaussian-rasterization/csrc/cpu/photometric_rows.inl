// One block of rows of the loss, streamed: no blurred image ever exists as a whole.
//
// Every field is blurred along its row, kept in a ring of 11 rows, and blurred across the ring.
// Rows with margins are plain; rings are vectors of the fields side by side, so that one address
// serves all fields of a row. Included once per instruction set, with RASTER_LANES floats a vector.

typedef float Vec __attribute__((vector_size(RASTER_LANES * 4)));
typedef float Loose __attribute__((vector_size(RASTER_LANES * 4), aligned(4), may_alias));

RASTER_INLINE Vec load(const float* p) { return *reinterpret_cast<const Loose*>(p); }
RASTER_INLINE void store(float* p, Vec v) { *reinterpret_cast<Loose*>(p) = v; }

RASTER_INLINE float sum(Vec v) {
  float total = 0;
  for (int i = 0; i < RASTER_LANES; ++i) total += v[i];
  return total;
}

// Blurs `fields` rows with margins into one slot of a ring.
template <int fields>
RASTER_INLINE void blur_along(const float* rows, int64_t row_stride, int64_t vectors, float* slot) {
  for (int64_t j = 0; j < vectors; ++j) {
    for (int f = 0; f < fields; ++f) {
      const float* p = rows + f * row_stride + kMargin + j * RASTER_LANES;
      Vec v = kWindow[0] * load(p);
      for (int k = 1; k <= kRadius; ++k) v += kWindow[k] * (load(p - 3 * k) + load(p + 3 * k));
      store(slot + (j * fields + f) * RASTER_LANES, v);
    }
  }
}

// The vector `offset` of a ring, blurred across its 11 rows.
RASTER_INLINE Vec blur_across(const float* const* rows, int64_t offset) {
  Vec v = kWindow[0] * load(rows[kRadius] + offset);
  for (int k = 1; k <= kRadius; ++k) {
    v += kWindow[k] * (load(rows[kRadius - k] + offset) + load(rows[kRadius + k] + offset));
  }
  return v;
}

struct Block {
  const Photometric& task;
  Rows rows;
  int64_t floats, stride, margined;  // of a row: used, padded, with margins
  float* fields;                     // [kFields, margined] the row that enters
  float* slopes;                     // [kSlopes, margined] d SSIM of the row in the middle
  float* field_ring;                 // [kTaps + 1, kFields, stride], the last row is 0
  float* slope_ring;                 // [kTaps + 1, kSlopes, stride], the last row is 0
  float* x;                          // [stride] the row that leaves
  float* y;
  float* weight;  // value weight per float, 0 beyond the image
  float* similarity;
  float* gradient;
  float* pixel_gradient;

  int64_t offset(int64_t row) const { return (rows.image * task.height + row) * task.width; }
};

RASTER_INLINE void read_color(const Block& b, int64_t row, float* x) {
  const float* from = b.task.color + 3 * b.offset(row);
  __builtin_memcpy(x, from, b.floats * sizeof(float));
}

RASTER_INLINE void read_target(const Block& b, int64_t row, float* y) {
  const int64_t start = 3 * b.offset(row);
  if (b.task.target != nullptr) {
    __builtin_memcpy(y, b.task.target + start, b.floats * sizeof(float));
    return;
  }
  const uint8_t* __restrict__ from = b.task.target_bytes + start;
  for (int64_t i = 0; i < b.floats; ++i) y[i] = static_cast<float>(from[i]) / 255.0f;
}

// The weight of each float; the padding keeps its 0.
RASTER_INLINE void spread(const float* from, int64_t width, float* __restrict__ to) {
  for (int64_t i = 0; i < width; ++i) {
    const float w = from == nullptr ? 1.0f : from[i];
    to[3 * i] = to[3 * i + 1] = to[3 * i + 2] = w;
  }
}

// Where the photo is not trusted it is replaced by the render: the nearer end is the base, so that
// a weight of 1 keeps the photo to the last bit, and a weight of 0 the render.
RASTER_INLINE void composite_target(const Block& b, int64_t row, const float* x, float* y) {
  if (!b.task.composite) return;
  spread(b.task.gradient_weight + b.offset(row), b.task.width, b.pixel_gradient);
  const Vec half = Vec{} + 0.5f;
  for (int64_t i = 0; i < b.stride; i += RASTER_LANES) {
    const Vec from = load(x + i), to = load(y + i), w = load(b.pixel_gradient + i);
    store(y + i, w < half ? from + w * (to - from) : to - (1 - w) * (to - from));
  }
}

static void enter_row(const Block& b, int64_t row) {
  float* x = b.fields + kMargin;
  float* y = x + b.margined;
  read_color(b, row, x);
  read_target(b, row, y);
  composite_target(b, row, x, y);
  for (int64_t i = 0; i < b.stride; i += RASTER_LANES) {
    const Vec a = load(x + i), t = load(y + i);
    store(x + 2 * b.margined + i, a * a + t * t);
    store(x + 3 * b.margined + i, a * t);
  }
  float* slot = b.field_ring + row % kTaps * kFields * b.stride;
  blur_along<kFields>(b.fields, b.margined, b.stride / RASTER_LANES, slot);
}

// Rows row - 5 .. row + 5 of a ring; rows outside the image are the row of zeros.
RASTER_INLINE void ring_rows(const Block& b, const float* ring, int fields, int64_t row,
                             const float** rows) {
  for (int k = 0; k < kTaps; ++k) {
    const int64_t r = row + k - kRadius;
    const int64_t slot = r < 0 || r >= b.task.height ? kTaps : r % kTaps;
    rows[k] = ring + slot * fields * b.stride;
  }
}

// SSIM of one row and its slopes; returns the row's sum of weight (1 - SSIM).
static double compare_row(const Block& b, int64_t row) {
  const float* rows[kTaps];
  ring_rows(b, b.field_ring, kFields, row, rows);
  const float* weights = b.task.value_weight;
  spread(weights == nullptr ? nullptr : weights + b.offset(row), b.task.width, b.weight);
  Vec error = {};
  for (int64_t i = 0; i < b.stride; i += RASTER_LANES) {
    const Vec mx = blur_across(rows, kFields * i),
              my = blur_across(rows, kFields * i + RASTER_LANES);
    const Vec squares = blur_across(rows, kFields * i + 2 * RASTER_LANES);
    const Vec product = blur_across(rows, kFields * i + 3 * RASTER_LANES);
    const Vec mxmy = mx * my, means = mx * mx + my * my;
    const Vec a1 = 2 * mxmy + kC1, b1 = means + kC1;
    const Vec a2 = 2 * (product - mxmy) + kC2, b2 = squares - means + kC2;
    const Vec scale = 1 / (b1 * b2), ssim = a1 * a2 * scale, w = load(b.weight + i);
    error += w * (1 - ssim);
    store(b.similarity + i, ssim);
    // Slopes by the blurred x (means and covariances hold it too), x^2 + y^2 and x y.
    const Vec by_product = 2 * a1 * scale, by_squares = -ssim * b1 * scale;
    const Vec by_mean = 2 * my * (a2 - a1) * scale + 2 * mx * ssim * (b1 - b2) * scale;
    float* slope = b.slopes + kMargin + i;
    store(slope, w * by_mean);
    store(slope + b.margined, w * by_squares);
    store(slope + 2 * b.margined, w * by_product);
  }
  return sum(error);
}

static void write_map(const Block& b, int64_t row) {
  float* __restrict__ to = b.task.map + b.offset(row);
  const float* s = b.similarity;
  for (int64_t i = 0; i < b.task.width; ++i) to[i] = (s[3 * i] + s[3 * i + 1] + s[3 * i + 2]) / 3;
}

// L1 of one row, and the gradient of everything by it; returns the sum of weight |x - y|.
static double leave_row(const Block& b, int64_t row) {
  const Photometric& task = b.task;
  read_color(b, row, b.x);
  read_target(b, row, b.y);
  composite_target(b, row, b.x, b.y);
  spread(task.value_weight == nullptr ? nullptr : task.value_weight + b.offset(row), task.width,
         b.weight);
  const float* rows[kTaps];
  ring_rows(b, b.slope_ring, kSlopes, row, rows);
  const float scale = static_cast<float>(1.0 / static_cast<double>(task.values()));
  const float l1 = (1 - task.lambda_dssim) * scale, dssim = -task.lambda_dssim * scale;
  const Vec zero = {}, one = zero + 1;
  Vec error = {};
  for (int64_t i = 0; i < b.stride; i += RASTER_LANES) {
    const Vec x = load(b.x + i), y = load(b.y + i), d = x - y, w = load(b.weight + i);
    const Vec sign = (d > zero ? one : zero) - (d < zero ? one : zero);
    error += w * d * sign;
    if (task.gradient == nullptr) continue;
    const Vec by_mean = blur_across(rows, kSlopes * i);
    const Vec by_squares = blur_across(rows, kSlopes * i + RASTER_LANES);
    const Vec by_product = blur_across(rows, kSlopes * i + 2 * RASTER_LANES);
    const Vec similarity = by_mean + 2 * x * by_squares + y * by_product;
    store(b.gradient + i, l1 * w * sign + dssim * similarity);
  }
  if (task.gradient != nullptr) {
    float* to = task.gradient + 3 * b.offset(row);
    if (task.gradient_weight != nullptr) {
      spread(task.gradient_weight + b.offset(row), task.width, b.pixel_gradient);
      for (int64_t i = 0; i < b.stride; i += RASTER_LANES) {
        store(b.gradient + i, load(b.gradient + i) * load(b.pixel_gradient + i));
      }
    }
    __builtin_memcpy(to, b.gradient, b.floats * sizeof(float));
  }
  return sum(error);
}

static Block block_in(const Photometric& task, int64_t block, float* scratch) {
  Block b{task, rows_of(task, block), 3 * task.width, padded(task.width)};
  b.margined = b.stride + 2 * kMargin;
  const auto take = [&scratch](int64_t floats) {
    float* taken = scratch;
    scratch += floats;
    return taken;
  };
  // Rows of a ring are written before they are read, so only what stays 0 is cleared.
  const auto take_zeros = [&take](int64_t floats) {
    return static_cast<float*>(__builtin_memset(take(floats), 0, floats * sizeof(float)));
  };
  b.field_ring = take(kTaps * kFields * b.stride);
  take_zeros(kFields * b.stride);
  b.slope_ring = take(kTaps * kSlopes * b.stride);
  take_zeros(kSlopes * b.stride);
  b.fields = take_zeros(kFields * b.margined);
  b.slopes = take_zeros(kSlopes * b.margined);
  for (float** row : {&b.x, &b.y, &b.weight, &b.similarity, &b.gradient, &b.pixel_gradient}) {
    *row = take_zeros(b.stride);
  }
  return b;
}

static void photometric_rows(const Photometric& task, int64_t block, float* scratch) {
  const Block b = block_in(task, block, scratch);
  const Rows rows = b.rows;
  if (rows.begin >= rows.end) {
    task.errors[block] = 0;
    return;
  }
  const bool wants_gradient = task.gradient != nullptr;
  // A gradient needs slopes five rows around its own, and a slope needs colours five rows around.
  const int64_t halo = wants_gradient ? kRadius : 0;
  const int64_t first = rows.begin - halo, last = rows.end + halo;  // rows that are compared
  double similarity = 0, absolute = 0;
  for (int64_t r = first - kRadius; r < last + kRadius; ++r) {
    if (r >= 0 && r < task.height) enter_row(b, r);
    const int64_t middle = r - kRadius;
    if (middle >= first && middle >= 0 && middle < task.height) {
      const double error = compare_row(b, middle);
      if (middle >= rows.begin && middle < rows.end) {
        similarity += error;
        if (task.map != nullptr) write_map(b, middle);
      }
      if (wants_gradient) {
        float* slot = b.slope_ring + middle % kTaps * kSlopes * b.stride;
        blur_along<kSlopes>(b.slopes, b.margined, b.stride / RASTER_LANES, slot);
      }
    }
    const int64_t leaving = middle - halo;
    if (leaving >= rows.begin && leaving < rows.end) absolute += leave_row(b, leaving);
  }
  const double lambda = task.lambda_dssim;
  task.errors[block] = (1 - lambda) * absolute + lambda * similarity;
}
