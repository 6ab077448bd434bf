// Chooses the instruction set; the work is in photometric_rows.inl, compiled once for each.
#include "photometric.h"

#include <initializer_list>

#include "isa.h"

namespace raster {
namespace {

constexpr int kRadius = 5;  // of the window: 11 taps
constexpr int kTaps = 2 * kRadius + 1;
constexpr int kMargin = 16;     // zeros on both sides of a row: at least 3 * kRadius floats
constexpr int kFields = 4;      // x, y, x^2 + y^2, x y
constexpr int kSlopes = 3;      // d SSIM by the blurred x, x^2 + y^2, x y
constexpr int kBlockRows = 50;  // costs (50 + 20) / 50 of the row work; fits the second cache
constexpr float kC1 = 0.01f * 0.01f;
constexpr float kC2 = 0.03f * 0.03f;

// exp(-k^2 / (2 1.5^2)) for k = 0..5, divided by the sum over k = -5..5.
constexpr float kWindow[kRadius + 1] = {0.26601172486179436f,  0.21300553771125369f,
                                        0.10936068950970002f,  0.03600077212843083f,
                                        0.007598758135239185f, 0.00102838008447911f};

struct Rows {
  int64_t image, begin, end;
};

Rows rows_of(const Photometric& task, int64_t block) {
  const int64_t per_image = photometric_blocks(task) / task.num_images;
  const int64_t in_image = block % per_image;
  const int64_t height = (task.height + per_image - 1) / per_image;
  const int64_t begin = in_image * height;
  const int64_t end = begin + height;
  return {block / per_image, begin < task.height ? begin : task.height,
          end < task.height ? end : task.height};
}

// Floats of a row, rounded up to whole vectors of the widest instruction set.
int64_t padded(int64_t width) { return (3 * width + 15) / 16 * 16; }

#define RASTER_LANES 4
namespace generic {
#include "photometric_rows.inl"
}
#undef RASTER_LANES

#if RASTER_X86
#pragma GCC push_options
#pragma GCC target("sse4.2,popcnt")
#define RASTER_LANES 4
namespace sse42 {
#include "photometric_rows.inl"
}
#undef RASTER_LANES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2")
#define RASTER_LANES 8
namespace avx2 {
#include "photometric_rows.inl"
}
#undef RASTER_LANES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi,bmi2")
#define RASTER_LANES 16
namespace avx512 {
#include "photometric_rows.inl"
}
#undef RASTER_LANES
#pragma GCC pop_options
#endif

}  // namespace

int64_t photometric_blocks(const Photometric& task) {
  int64_t per_image = (task.height + kBlockRows - 1) / kBlockRows;
  if (per_image > 1) per_image += per_image % 2;  // an even number, for two threads
  return task.num_images * per_image;
}

int64_t photometric_scratch(const Photometric& task) {
  const int64_t row = padded(task.width), margined = row + 2 * kMargin;
  const int64_t rings = (kTaps + 1) * (kFields + kSlopes) * row;  // one row of zeros in each
  return rings + (kFields + kSlopes) * margined + 6 * row;
}

void photometric_block(const Photometric& task, int64_t block, float* scratch) {
  switch (isa()) {
#if RASTER_X86
    case Isa::avx512:
      return avx512::photometric_rows(task, block, scratch);
    case Isa::avx2:
      return avx2::photometric_rows(task, block, scratch);
    case Isa::sse42:
      return sse42::photometric_rows(task, block, scratch);
#endif
    default:
      return generic::photometric_rows(task, block, scratch);
  }
}

}  // namespace raster
