// Picks the kernels for the machine, once.
#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace raster {

extern const Kernels kernels_generic;
#if defined(__x86_64__)
extern const Kernels kernels_avx512, kernels_avx2, kernels_sse42;
#endif

namespace {

const Kernels& pick() {
#if defined(__x86_64__)
  const bool sse42 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
  const bool avx2 = sse42 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const char* wanted = std::getenv("TWINSPLAT_ISA");
  const auto allows = [&](const char* name) { return !wanted || !*wanted || !std::strcmp(wanted, name); };
  if (avx512 && allows("avx512")) return kernels_avx512;
  if (avx2 && allows("avx2")) return kernels_avx2;
  if (sse42 && allows("sse42")) return kernels_sse42;
#endif
  return kernels_generic;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& picked = pick();
  return picked;
}

}  // namespace raster
