// The kernels for AVX2 with FMA, 8 lanes.
#if defined(__x86_64__)
#pragma GCC target("avx2,fma,bmi,bmi2,popcnt,lzcnt")
#define RASTER_LANES_8

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

extern const Kernels kernels_avx2;
const Kernels kernels_avx2{
    "avx2",  &::project,       &::project_backward, &::bin,
    &::pack, &::scratch_bytes, &::blend_any,        &::blend_backward_any,
};

}  // namespace raster

#endif
