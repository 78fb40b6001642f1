// The graph between channels, as the loops need it.

#pragma once

#include <c10/util/Exception.h>

#include <cstdint>
#include <vector>

namespace expanders {

using std::int64_t;

struct Neighbour {
  int64_t channel, edge;
};

// For every channel of one side, its neighbours on the other.
struct Adjacency {
  std::vector<int64_t> start;
  std::vector<Neighbour> neighbours;

  Adjacency(const int64_t* own, const int64_t* other, int64_t edges, int64_t size, int64_t others)
      : start(size + 1), neighbours(edges) {
    for (int64_t e = 0; e < edges; ++e) {
      TORCH_CHECK_INDEX(0 <= own[e] && own[e] < size && 0 <= other[e] && other[e] < others,
                        "edges: channel out of range");
      ++start[own[e] + 1];
    }
    for (int64_t c = 0; c < size; ++c) start[c + 1] += start[c];
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t e = 0; e < edges; ++e) neighbours[next[own[e]]++] = {other[e], e};
  }
};

}  // namespace expanders
