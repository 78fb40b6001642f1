// The graph between channels, as the loops need it.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace expanders {

using std::int64_t;

inline bool are_within(const int64_t* channels, int64_t count, int64_t size) {
  return std::all_of(channels, channels + count, [=](int64_t c) { return 0 <= c && c < size; });
}

struct Neighbour {
  int64_t channel, edge;
};

// For every channel of one side, its neighbours on the other.
struct Adjacency {
  std::vector<int64_t> start;
  std::vector<Neighbour> neighbours;

  // Edges must lie within (see `are_within`).
  Adjacency(const int64_t* own, const int64_t* other, int64_t edges, int64_t size)
      : start(size + 1), neighbours(edges) {
    for (int64_t e = 0; e < edges; ++e) ++start[own[e] + 1];
    for (int64_t c = 0; c < size; ++c) start[c + 1] += start[c];
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t e = 0; e < edges; ++e) neighbours[next[own[e]]++] = {other[e], e};
  }
};

}  // namespace expanders
