// Threads.

#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace expanders {

using std::int64_t;

// Runs work(i) for i in [0, count) on so many threads; inside of itself, serially. For one thread
// it opens no parallel region: another one inside of that would start new threads each time.
template <typename Work>
void parallel(int64_t count, int64_t threads, const Work& work) {
  const int team = static_cast<int>(std::min(count, threads));
  if (team <= 1 || omp_in_parallel()) {
    for (int64_t i = 0; i < count; ++i) work(i);
    return;
  }
#pragma omp parallel for schedule(static) num_threads(team)
  for (int64_t i = 0; i < count; ++i) work(i);
}

// At most `available` threads, but none that would get less than some 5 microseconds of work.
inline int64_t useful_threads(int64_t multiply_adds, int64_t available) {
  constexpr int64_t least = 1 << 17;
  return std::clamp<int64_t>(multiply_adds / least, 1, available);
}

}  // namespace expanders
