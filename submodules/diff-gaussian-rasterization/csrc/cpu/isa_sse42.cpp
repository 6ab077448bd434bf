// The kernels for SSE4.2, 4 lanes.
#if defined(__x86_64__)
#pragma GCC target("sse4.2,popcnt")

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

extern const Kernels kernels_sse42;
const Kernels kernels_sse42{
    "sse42", &::project,       &::project_backward, &::bin,
    &::pack, &::scratch_bytes, &::blend_any,        &::blend_backward_any,
};

}  // namespace raster

#endif
