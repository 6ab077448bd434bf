// The residuals between pictures and photos on the GPU: torch's side of the kernels.
#include "../residuals.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <limits>

#include "kernels/residuals.h"

namespace raster::cuda {
namespace {

Pictures task_of(const char* op, const ResidualTensors& in) {
  TORCH_CHECK(in.pictures.size() <= kMostPictures, op, ": pictures may be up to ", kMostPictures,
              " tensors on a GPU, got ", in.pictures.size());
  TORCH_CHECK(in.num_photos() <= 65535 && in.photos.numel() <= std::numeric_limits<int32_t>::max(),
              op, ": photos may be up to 65535 images of 2^31 - 1 numbers on a GPU, got ",
              in.photos.sizes());
  Pictures task{};
  task.num_pictures = static_cast<int>(in.pictures.size());
  task.num_photos = static_cast<int>(in.num_photos());
  task.height = static_cast<int>(in.height());
  task.width = static_cast<int>(in.width());
  for (int i = 0; i < task.num_pictures; ++i) {
    task.pictures[i] = in.pictures[i].const_data_ptr<float>();
  }
  const bool is_float = in.photos.scalar_type() == at::kFloat;
  task.photos = is_float ? in.photos.const_data_ptr<float>() : nullptr;
  task.photo_bytes = is_float ? nullptr : in.photos.const_data_ptr<uint8_t>();
  return task;
}

at::Tensor color_residual_cuda(at::TensorList pictures, const at::Tensor& photos) {
  const ResidualTensors in = residual_tensors("color_residual", pictures, photos);
  const c10::cuda::CUDAGuard guard(photos.device());
  const Pictures task = task_of("color_residual", in);
  at::Tensor residual = at::empty({task.num_pictures * in.num_photos(), in.height(), in.width()},
                                  in.pictures[0].options());
  color_residual(task, residual.mutable_data_ptr<float>(), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return residual;
}

at::Tensor patch_residual_cuda(at::TensorList pictures, const at::Tensor& photos,
                               const at::Tensor& down, const at::Tensor& across,
                               const at::Tensor& axes, const at::Tensor& grey, double floor) {
  const ResidualTensors in = residual_tensors("patch_residual", pictures, photos);
  const PatchTensors filters = patch_tensors(in, down, across, axes, grey);
  const c10::cuda::CUDAGuard guard(photos.device());
  const Pictures task = task_of("patch_residual", in);
  const Patches patches{static_cast<int>(filters.num_down()),
                        static_cast<int>(filters.num_across()),
                        static_cast<int>(grey.size(1)),
                        static_cast<int>(grey.size(2)),
                        filters.down.const_data_ptr<float>(),
                        filters.across.const_data_ptr<float>(),
                        filters.axes.const_data_ptr<float>(),
                        filters.grey.const_data_ptr<float>(),
                        static_cast<float>(floor)};
  const size_t bytes = patch_residual_bytes(task, patches);
  TORCH_CHECK(bytes <= kMostSharedBytes, "patch_residual: patches of ",
              in.height() / filters.num_down(), " x ", in.width() / filters.num_across(),
              " pixels with ", grey.size(1), " x ", grey.size(2), " waves take ", bytes,
              " bytes of a GPU's shared memory, of which there are ", kMostSharedBytes,
              "; take smaller patches or fewer frequencies");
  at::Tensor residual =
      at::empty({task.num_pictures * in.num_photos(), filters.num_down(), filters.num_across()},
                in.pictures[0].options());
  patch_residual(task, patches, residual.mutable_data_ptr<float>(),
                 c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return residual;
}

}  // namespace
}  // namespace raster::cuda

TORCH_LIBRARY_IMPL(twinsplat_raster, CUDA, m) {
  m.impl("color_residual", &raster::cuda::color_residual_cuda);
  m.impl("patch_residual", &raster::cuda::patch_residual_cuda);
}
