// The kernels for any machine, 4 lanes by the compiler's vector types.

// The target must come before the first header, and these in this order.
// clang-format off
#include "kernels.h"
#include "simd.h"

#include "bin.inl"
#include "blend.inl"
#include "harmonics.inl"
#include "project.inl"
// clang-format on

namespace raster {

extern const Kernels kernels_generic;
const Kernels kernels_generic{
    "generic", &::project,       &::project_backward, &::bin,
    &::pack,   &::scratch_bytes, &::blend_any,        &::blend_backward_any,
};

}  // namespace raster
