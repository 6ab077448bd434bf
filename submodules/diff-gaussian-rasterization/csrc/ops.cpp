// Schemas of the rasterizer's operators; each device registers its own implementation.
#include <torch/library.h>

#define TWINSPLAT_PROJECT_ARGUMENTS                                                              \
  "Tensor means, Tensor? quats, Tensor? scales, Tensor? covariances, Tensor opacities, Tensor? " \
  "sh0, Tensor? shN, "                                                                           \
  "Tensor viewmats, Tensor Ks, int width, int height, int sh_degree, float near_plane, float "   \
  "far_plane, float eps2d, "                                                                     \
  "bool antialiased"

TORCH_LIBRARY(twinsplat_raster, m) {
  m.def("project(" TWINSPLAT_PROJECT_ARGUMENTS
        ") -> (Tensor means2d, Tensor conics, Tensor depths, Tensor opacities, Tensor colors, "
        "Tensor radii)");
  m.def(
      "project_backward(Tensor v_means2d, Tensor v_conics, Tensor? v_depths, Tensor v_opacities, "
      "Tensor v_colors, Tensor conics, "
      "Tensor colors, Tensor radii, " TWINSPLAT_PROJECT_ARGUMENTS
      ", bool geometry_grad) -> (Tensor v_means, Tensor v_quats, Tensor v_scales, Tensor "
      "v_covariances, Tensor v_opacities, "
      "Tensor v_sh0, Tensor v_shN)");
  m.def(
      "blend(Tensor means2d, Tensor conics, Tensor opacities, Tensor colors, Tensor depths, Tensor "
      "radii, Tensor? backgrounds, "
      "Tensor? absgrad, int[] set_sizes, int width, int height, int depth_mode, bool "
      "geometry_grad, bool keep_state, int capacity) -> (Tensor color, Tensor alpha, "
      "Tensor depth, Tensor splats, Tensor state, Tensor counts)");
  m.def(
      "blend_shared(Tensor means2d, Tensor conics, Tensor opacities, Tensor colors, Tensor depths, "
      "Tensor radii, Tensor? backgrounds, Tensor lists, int[] set_sizes, int width, int height, "
      "int "
      "depth_mode) -> (Tensor color, Tensor alpha, Tensor depth)");
  m.def(
      "blend_backward(Tensor v_color, Tensor? v_alpha, Tensor? v_depth, Tensor splats, Tensor "
      "state, Tensor "
      "means2d, Tensor conics, "
      "Tensor opacities, Tensor colors, Tensor depths, Tensor radii, Tensor? backgrounds, int[] "
      "set_sizes, int width, int height, "
      "int depth_mode, bool geometry_grad, bool absolute) -> (Tensor v_means2d, Tensor v_conics, "
      "Tensor v_opacities, "
      "Tensor v_colors, Tensor v_depths, Tensor v_absgrad)");
}
