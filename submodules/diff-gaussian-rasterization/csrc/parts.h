// Independent parts of a job over torch's threads, each taken by whichever thread is free.
#pragma once

#include <ATen/Parallel.h>

#include <atomic>

namespace raster {

// Calls work(part) once for each part in [0, parts). A thread that the machine delays takes fewer.
template <class Work>
void over_parts(int64_t parts, const Work& work) {
  const int64_t threads = at::get_num_threads() < parts ? at::get_num_threads() : parts;
  std::atomic<int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t part = next++; part < parts; part = next++) work(part);
  });
}

}  // namespace raster
