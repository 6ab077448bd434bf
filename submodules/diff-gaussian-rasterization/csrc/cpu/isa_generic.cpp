// The kernels for generic; nothing but C headers may come before the target.
#include "kernels.h"
#include "simd.h"

#include "bin.inl"
#include "blend.inl"
#include "harmonics.inl"
#include "project.inl"

namespace raster {

extern const Kernels kernels_generic;
const Kernels kernels_generic{"generic", &::project, &::project_backward, &::bin, &::scratch_bytes, &::blend_any, &::blend_backward_any};

}  // namespace raster
