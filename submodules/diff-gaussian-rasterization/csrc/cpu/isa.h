// The instruction set of `kernels()`, for kernels that are compiled once for each inside one file.
#pragma once

namespace raster {

enum class Isa : int { generic, sse42, avx2, avx512 };

Isa isa();  // the choice that kernels() made, so that all kernels of a process agree

}  // namespace raster

#if defined(__x86_64__)
#define RASTER_X86 1
#define RASTER_SSE42 "sse4.2,popcnt"
#define RASTER_AVX2 "avx2,fma,bmi,bmi2"
#define RASTER_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi,bmi2"
#endif

#define RASTER_INLINE static inline __attribute__((always_inline))
