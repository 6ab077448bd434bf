#include "observe.h"

namespace raster {
namespace {

// Length in units of half the image.
float length(const float* v, const Observe& task) {
  const float x = v[0] * task.half_width, y = v[1] * task.half_height;
  return __builtin_sqrtf(x * x + y * y);
}

}  // namespace

void observe(const Observe& task, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    if (task.radii[i] <= 0) continue;
    task.count[i] += 1;
    task.grad_sum[i] += length(task.v_means2d + 2 * i, task);
    if (task.v_absgrad != nullptr) task.absgrad_sum[i] += length(task.v_absgrad + 2 * i, task);
  }
}

}  // namespace raster
