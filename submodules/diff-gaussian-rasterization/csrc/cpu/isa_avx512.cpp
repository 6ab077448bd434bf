// The kernels for AVX-512, 16 lanes.
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi,bmi2,popcnt,lzcnt")
#define RASTER_LANES_16

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

extern const Kernels kernels_avx512;
const Kernels kernels_avx512{
    "avx512", &::project,       &::project_backward, &::bin,
    &::pack,  &::scratch_bytes, &::blend_any,        &::blend_backward_any,
};

}  // namespace raster

#endif
