// Torch's side of the residuals between pictures and photos: schema and checks. There are kernels
// for GPUs only; elsewhere the caller has torch's own operators.
#include "residuals.h"

#include <torch/library.h>

namespace raster {
namespace {

at::Tensor checked_filter(const char* name, const at::Tensor& filter, int64_t dim,
                          const ResidualTensors& in) {
  TORCH_CHECK(filter.scalar_type() == at::kFloat && filter.dim() == dim && filter.numel() > 0 &&
                  filter.device() == in.photos.device(),
              "patch_residual: ", name, " must be float32 of ", dim, " dimensions on ",
              in.photos.device(), ", got ", filter.scalar_type(), " ", filter.sizes(), " on ",
              filter.device());
  return filter.contiguous();
}

void check_waves(const char* name, const at::Tensor& waves, int64_t count, int64_t side) {
  TORCH_CHECK(waves.size(1) == side && waves.size(0) % count == 0 && waves.size(0) <= side * count,
              "patch_residual: ", name, " must be [patches * ", count, ", ", side,
              "] with at most a patch for each pixel, got ", waves.sizes());
}

}  // namespace

ResidualTensors residual_tensors(const char* op, at::TensorList pictures,
                                 const at::Tensor& photos) {
  TORCH_CHECK(photos.dim() == 4 && photos.size(3) == 3 && photos.numel() > 0 &&
                  (photos.scalar_type() == at::kFloat || photos.scalar_type() == at::kByte),
              op, ": photos must be float32 or uint8 [C, H, W, 3], got ", photos.scalar_type(), " ",
              photos.sizes());
  TORCH_CHECK(!pictures.empty(), op, ": pictures must have at least one tensor, got none");
  ResidualTensors in{{}, photos.contiguous()};
  for (const at::Tensor& picture : pictures) {
    TORCH_CHECK(picture.scalar_type() == at::kFloat && picture.sizes() == photos.sizes() &&
                    picture.device() == photos.device(),
                op, ": pictures must be float32 ", photos.sizes(), " on ", photos.device(),
                ", got ", picture.scalar_type(), " ", picture.sizes(), " on ", picture.device());
    in.pictures.push_back(picture.contiguous());
  }
  return in;
}

PatchTensors patch_tensors(const ResidualTensors& in, const at::Tensor& down,
                           const at::Tensor& across, const at::Tensor& axes,
                           const at::Tensor& grey) {
  const PatchTensors filters{
      checked_filter("down", down, 2, in), checked_filter("across", across, 2, in),
      checked_filter("axes", axes, 2, in), checked_filter("grey", grey, 3, in)};
  TORCH_CHECK(axes.size(0) == 3 && axes.size(1) == 3 && grey.size(0) == 3,
              "patch_residual: axes must be [3, 3] and grey [3, u, v], got ", axes.sizes(), " and ",
              grey.sizes());
  check_waves("down", down, grey.size(1), in.height());
  check_waves("across", across, grey.size(2), in.width());
  return filters;
}

}  // namespace raster

TORCH_LIBRARY_FRAGMENT(twinsplat_raster, m) {
  m.def("color_residual(Tensor[] pictures, Tensor photos) -> Tensor");
  m.def(
      "patch_residual(Tensor[] pictures, Tensor photos, Tensor down, Tensor across, Tensor axes, "
      "Tensor grey, float floor) -> Tensor");
}
