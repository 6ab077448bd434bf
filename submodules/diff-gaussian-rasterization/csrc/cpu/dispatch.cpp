// Picks the kernels for the machine, once.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace raster {

extern const Kernels kernels_generic;
#if defined(__x86_64__)
extern const Kernels kernels_avx512, kernels_avx2, kernels_sse42;
#endif

namespace {

// The tables that this machine runs, the widest first.
std::vector<const Kernels*> runnable() {
  std::vector<const Kernels*> tables;
#if defined(__x86_64__)
  const bool sse42 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
  const bool avx2 = sse42 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx512) tables.push_back(&kernels_avx512);
  if (avx2) tables.push_back(&kernels_avx2);
  if (sse42) tables.push_back(&kernels_sse42);
#endif
  tables.push_back(&kernels_generic);
  return tables;
}

const Kernels& pick() {
  const std::vector<const Kernels*> tables = runnable();
  const char* wanted = std::getenv("TWINSPLAT_ISA");
  if (wanted == nullptr || *wanted == '\0') return *tables.front();
  std::string names;
  for (const Kernels* table : tables) {
    if (std::strcmp(table->name, wanted) == 0) return *table;
    names += std::string(names.empty() ? "" : ", ") + table->name;
  }
  throw std::invalid_argument(std::string("TWINSPLAT_ISA=") + wanted + ": this machine runs " +
                              names + "; name one of them or unset it");
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& picked = pick();
  return picked;
}

}  // namespace raster
