// The kernels for sse42; nothing but C headers may come before the target.
#if defined(__x86_64__)
#pragma GCC target("sse4.2,popcnt")
#include "kernels.h"
#include "simd.h"

#include "bin.inl"
#include "blend.inl"
#include "harmonics.inl"
#include "project.inl"

namespace raster {

extern const Kernels kernels_sse42;
const Kernels kernels_sse42{"sse42", &::project, &::project_backward, &::bin, &::scratch_bytes, &::blend_any, &::blend_backward_any};

}  // namespace raster
#endif
