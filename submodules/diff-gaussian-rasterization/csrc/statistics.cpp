// Torch's side of what a training step notes down: growth statistics, and whether it went well.
#include "statistics.h"

#include <torch/library.h>

#include <algorithm>
#include <cmath>

#include "cpu/observe.h"
#include "frozen.h"
#include "parts.h"

namespace raster {
namespace {

constexpr int64_t kPart = 16384;  // Gaussians per part

void check(const char* op, const char* name, const at::Tensor& tensor, at::IntArrayRef shape,
           at::ScalarType dtype, at::Device device) {
  TORCH_CHECK(tensor.scalar_type() == dtype && tensor.sizes() == shape && tensor.device() == device,
              op, ": ", name, " must be ", dtype, " ", shape, " on ", device, ", got ",
              tensor.scalar_type(), " ", tensor.sizes(), " on ", tensor.device());
}

void check_sum(const char* name, const at::Tensor& sum, const at::Tensor& grad_sum) {
  check("observe_", name, sum, {grad_sum.numel()}, at::kFloat, grad_sum.device());
  TORCH_CHECK(sum.is_contiguous(), "observe_: ", name, " must be contiguous, got strides ",
              sum.strides());
}

void observe_rows(const at::Tensor& grad_sum, const std::optional<at::Tensor>& absgrad_sum,
                  const at::Tensor& count, const at::Tensor& v_means2d,
                  const std::optional<at::Tensor>& v_absgrad, const at::Tensor& radii,
                  int64_t width, int64_t height, const std::optional<at::Tensor>& frozen) {
  const ObserveTensors in = observe_tensors(grad_sum, absgrad_sum, count, v_means2d, v_absgrad,
                                            radii, width, height, frozen);
  if (is_frozen(frozen)) return;
  const Observe task{grad_sum.mutable_data_ptr<float>(),
                     absgrad_sum ? absgrad_sum->mutable_data_ptr<float>() : nullptr,
                     count.mutable_data_ptr<float>(),
                     in.v_means2d.const_data_ptr<float>(),
                     in.v_absgrad ? in.v_absgrad->const_data_ptr<float>() : nullptr,
                     in.radii.const_data_ptr<int32_t>(),
                     static_cast<float>(width) / 2,
                     static_cast<float>(height) / 2};
  const int64_t rows = grad_sum.size(0);
  over_parts((rows + kPart - 1) / kPart, [&](int64_t part) {
    observe(task, part * kPart, std::min(rows, (part + 1) * kPart));
  });
}

void watch(const at::Tensor& guard, const at::Tensor& counts, int64_t capacity,
           const at::Tensor& frozen) {
  check_watch(guard, counts, capacity, frozen);
  int32_t* seen = guard.mutable_data_ptr<int32_t>();
  const int32_t* now = counts.const_data_ptr<int32_t>();
  seen[0] = std::max(seen[0], now[1]);
  if (seen[1] < 0) seen[1] = now[2];
  if (now[1] > capacity || now[2] >= 0) *frozen.mutable_data_ptr<int32_t>() = 1;
}

void count_step(const at::Tensor& guard, const at::Tensor& frozen, const at::Tensor& loss) {
  check_count_step(guard, frozen, loss);
  if (is_frozen(frozen)) return;
  const bool is_good = std::isfinite(*loss.const_data_ptr<float>());
  ++guard.mutable_data_ptr<int32_t>()[is_good ? 2 : 3];
  if (!is_good) *frozen.mutable_data_ptr<int32_t>() = 1;
}

}  // namespace

ObserveTensors observe_tensors(const at::Tensor& grad_sum,
                               const std::optional<at::Tensor>& absgrad_sum,
                               const at::Tensor& count, const at::Tensor& v_means2d,
                               const std::optional<at::Tensor>& v_absgrad, const at::Tensor& radii,
                               int64_t width, int64_t height,
                               const std::optional<at::Tensor>& frozen) {
  TORCH_CHECK(grad_sum.dim() == 1, "observe_: grad_sum must be float32 [M], got ",
              grad_sum.scalar_type(), " ", grad_sum.sizes());
  TORCH_CHECK(absgrad_sum.has_value() == v_absgrad.has_value(),
              "observe_: absgrad_sum and v_absgrad must be given together, got ",
              absgrad_sum ? "absgrad_sum" : "v_absgrad", " alone");
  TORCH_CHECK(width > 0 && height > 0, "observe_: the image must have at least one pixel, got ",
              width, " x ", height);
  const int64_t rows = grad_sum.size(0);
  const at::Device device = grad_sum.device();
  check_sum("grad_sum", grad_sum, grad_sum);
  check_sum("count", count, grad_sum);
  check("observe_", "v_means2d", v_means2d, {rows, 2}, at::kFloat, device);
  check("observe_", "radii", radii, {rows}, at::kInt, device);
  if (absgrad_sum) {
    check_sum("absgrad_sum", *absgrad_sum, grad_sum);
    check("observe_", "v_absgrad", *v_absgrad, {rows, 2}, at::kFloat, device);
  }
  check_frozen("observe_", frozen, device);
  return {v_means2d.contiguous(), radii.contiguous(),
          v_absgrad ? std::optional(v_absgrad->contiguous()) : std::nullopt};
}

void check_watch(const at::Tensor& guard, const at::Tensor& counts, int64_t capacity,
                 const at::Tensor& frozen) {
  check("watch_", "guard", guard, {4}, at::kInt, guard.device());
  check("watch_", "counts", counts, {3}, at::kInt, guard.device());
  TORCH_CHECK(guard.is_contiguous() && counts.is_contiguous(),
              "watch_: guard and counts must be contiguous, got strides ", guard.strides(), " and ",
              counts.strides());
  TORCH_CHECK(capacity >= 0, "watch_: capacity must be at least 0, got ", capacity);
  check_frozen("watch_", frozen, guard.device());
}

void check_count_step(const at::Tensor& guard, const at::Tensor& frozen, const at::Tensor& loss) {
  check("count_step_", "guard", guard, {4}, at::kInt, guard.device());
  check("count_step_", "loss", loss, {}, at::kFloat, guard.device());
  TORCH_CHECK(guard.is_contiguous(), "count_step_: guard must be contiguous, got strides ",
              guard.strides());
  check_frozen("count_step_", frozen, guard.device());
}

}  // namespace raster

TORCH_LIBRARY_FRAGMENT(twinsplat_raster, m) {
  m.def(
      "observe_(Tensor(a!) grad_sum, Tensor(b!)? absgrad_sum, Tensor(c!) count, Tensor v_means2d, "
      "Tensor? v_absgrad, Tensor radii, int width, int height, Tensor? frozen) -> ()");
  m.def("watch_(Tensor(a!) guard, Tensor counts, int capacity, Tensor(b!) frozen) -> ()");
  m.def("count_step_(Tensor(a!) guard, Tensor(b!) frozen, Tensor loss) -> ()");
}

TORCH_LIBRARY_IMPL(twinsplat_raster, CPU, m) {
  m.impl("observe_", &raster::observe_rows);
  m.impl("watch_", &raster::watch);
  m.impl("count_step_", &raster::count_step);
}
