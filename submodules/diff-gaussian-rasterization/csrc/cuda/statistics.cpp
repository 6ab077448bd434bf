// What a training step notes down, on the GPU: torch's side of the kernels.
#include "../statistics.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "kernels/statistics.h"

namespace raster::cuda {
namespace {

void observe_cuda(const at::Tensor& grad_sum, const std::optional<at::Tensor>& absgrad_sum,
                  const at::Tensor& count, const at::Tensor& v_means2d,
                  const std::optional<at::Tensor>& v_absgrad, const at::Tensor& radii,
                  int64_t width, int64_t height, const std::optional<at::Tensor>& frozen) {
  const ObserveTensors in = observe_tensors(grad_sum, absgrad_sum, count, v_means2d, v_absgrad,
                                            radii, width, height, frozen);
  const c10::cuda::CUDAGuard guard(grad_sum.device());
  observe({grad_sum.size(0), grad_sum.mutable_data_ptr<float>(),
           absgrad_sum ? absgrad_sum->mutable_data_ptr<float>() : nullptr,
           count.mutable_data_ptr<float>(), in.v_means2d.const_data_ptr<float>(),
           in.v_absgrad ? in.v_absgrad->const_data_ptr<float>() : nullptr,
           in.radii.const_data_ptr<int32_t>(), static_cast<float>(width) / 2,
           static_cast<float>(height) / 2, frozen ? frozen->const_data_ptr<int32_t>() : nullptr},
          c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void watch_cuda(const at::Tensor& guard, const at::Tensor& counts, int64_t capacity,
                const at::Tensor& frozen) {
  check_watch(guard, counts, capacity, frozen);
  const c10::cuda::CUDAGuard device(guard.device());
  watch(guard.mutable_data_ptr<int32_t>(), counts.const_data_ptr<int32_t>(), capacity,
        frozen.mutable_data_ptr<int32_t>(), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void count_step_cuda(const at::Tensor& guard, const at::Tensor& frozen, const at::Tensor& loss) {
  check_count_step(guard, frozen, loss);
  const c10::cuda::CUDAGuard device(guard.device());
  count_step(guard.mutable_data_ptr<int32_t>(), frozen.mutable_data_ptr<int32_t>(),
             loss.const_data_ptr<float>(), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace
}  // namespace raster::cuda

TORCH_LIBRARY_IMPL(twinsplat_raster, CUDA, m) {
  m.impl("observe_", &raster::cuda::observe_cuda);
  m.impl("watch_", &raster::cuda::watch_cuda);
  m.impl("count_step_", &raster::cuda::count_step_cuda);
}
