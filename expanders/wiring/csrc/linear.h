// A linear layer over the edges of a bipartite graph between features: output, gradient of the
// input, gradients of weights and bias. Each thread transposes some tokens, so that a feature is a
// row of tokens, and every edge works on whole vectors (kernels.h).
//
//   output[t][o]     = bias[o] + sum over edges (i, o) of weight[e] * input[t][i]
//   input_grad[t][i] = sum over edges (i, o) of weight[e] * output_grad[t][o]
//   weight_grad[e]   = sum over tokens t of output_grad[t][o] * input[t][i]
//   bias_grad[o]     = sum over tokens t of output_grad[t][o]

#pragma once

#include <unistd.h>

#include <algorithm>
#include <vector>

#include "graph.h"
#include "kernels.h"
#include "layout.h"
#include "parallel.h"
#include "transpose.h"

namespace expanders {

// How many vectors of tokens are transposed at a time: so many that all their features take at most
// half of a core's second cache, and that no more than 32 rows are read and written side by side.
template <typename T>
int tile_vectors(int64_t features, int64_t tokens) {
  static const int64_t cache = std::max(sysconf(_SC_LEVEL2_CACHE_SIZE), 1L << 19) / 2;
  int vectors = std::clamp<int>(32 / Simd<T>::lanes, 1, 4);
  while (vectors > 1 && (features * vectors * kVectorBytes > cache ||
                         tokens <= vectors / 2 * Simd<T>::lanes))
    vectors /= 2;
  return vectors;
}

// Calls work(first token, number of tokens) for the tiles of one of `chunks` parts of the tokens.
template <typename Work>
void for_tiles(int64_t tokens, int64_t tile, int64_t chunk, int64_t chunks, const Work& work) {
  const int64_t tiles = ceil_div(tokens, tile);
  for (int64_t i = tiles * chunk / chunks; i < tiles * (chunk + 1) / chunks; ++i)
    work(i * tile, std::min(tile, tokens - i * tile));
}

// rows[t][c] = bias[c] + sum over the neighbours of c of weight * source, a packed tile.
template <typename T, int V>
void gather_tile(T* rows, const T* source, const T* weight, const T* bias, const Adjacency& graph,
                 int64_t count) {
  constexpr int64_t tile = V * Simd<T>::lanes, width = 64;
  static const std::vector<Column> one_tap{{0, 0, 0}};
  const int64_t features = graph.start.size() - 1;
  alignas(kVectorBytes) T block[width * tile];
  for (int64_t first = 0; first < features; first += width) {
    const int64_t present = std::min(width, features - first);
    for (int64_t c = 0; c < present; ++c)
      gather<T, 1, V, 1>(block + c * tile, tile, source, tile, tile,
                         graph.neighbours.data() + graph.start[first + c],
                         graph.neighbours.data() + graph.start[first + c + 1], weight, 1, one_tap, {});
    unpack_tokens(rows + first, features, block, tile, present, count,
                  bias ? bias + first : nullptr);
  }
}

// result[i] += sum over the tile of term(i, vector), for i below `count`.
template <typename T, typename Term>
void add_tile_sums(T* result, int64_t count, const Term& term) {
  constexpr int width = 8;
  for (int64_t first = 0; first < count; first += width) {
    typename Simd<T>::Vector sums[width] = {};
    const int64_t present = std::min<int64_t>(width, count - first);
    for (int64_t i = 0; i < present; ++i) sums[i] = term(first + i);
    if (present == width) {
      Simd<T>::template add_sums<width>(result + first, sums);
    } else {
      for (int64_t i = 0; i < present; ++i)
        Simd<T>::template add_sums<1>(result + first + i, sums + i);
    }
  }
}

// Calls f<V>() for the number of vectors.
template <typename F>
void with_vectors(int vectors, const F& f) {
  switch (vectors) {
    case 4: return f.template operator()<4>();
    case 2: return f.template operator()<2>();
    default: return f.template operator()<1>();
  }
}

template <typename T>
void linear_forward(T* y, const T* x, const T* weight, const T* bias, const Adjacency& graph,
                    int64_t tokens, int64_t inputs, int64_t outputs, int64_t max_threads) {
  const int64_t work = tokens * (inputs + outputs + static_cast<int64_t>(graph.neighbours.size()));
  const int64_t threads = useful_threads(work, max_threads);
  with_vectors(tile_vectors<T>(inputs, tokens), [&]<int V>() {
    constexpr int64_t tile = V * Simd<T>::lanes;
    parallel(threads, threads, [&](int64_t chunk) {
      const Buffer<T> packed(inputs * tile);
      for_tiles(tokens, tile, chunk, threads, [&](int64_t first, int64_t count) {
        pack_tokens(packed.data(), tile, x + first * inputs, inputs, count);
        gather_tile<T, V>(y + first * outputs, packed.data(), weight, bias, graph, count);
      });
    });
  });
}

// Gradients whose pointer is null are left out.
template <typename T>
void linear_backward(T* x_grad, T* weight_grad, T* bias_grad, const T* y_grad, const T* x,
                     const T* weight, const int64_t* edges, int64_t num_edges, int64_t tokens,
                     int64_t inputs, int64_t outputs, int64_t max_threads) {
  const Adjacency graph(edges, edges + num_edges, num_edges, inputs);
  const int64_t weights = weight_grad ? num_edges : 0, biases = bias_grad ? outputs : 0;
  const int64_t work = tokens * (inputs + outputs + 2 * num_edges);
  const int64_t threads = useful_threads(work, max_threads);
  std::vector<T> partial(threads * (weights + biases));  // gradients of each thread's tokens
  with_vectors(tile_vectors<T>(outputs + (weight_grad ? inputs : 0), tokens), [&]<int V>() {
    constexpr int64_t lanes = Simd<T>::lanes, tile = V * lanes;
    parallel(threads, threads, [&](int64_t chunk) {
      const Buffer<T> grad(outputs * tile), packed(weights ? inputs * tile : 0);
      T* sums = partial.data() + chunk * (weights + biases);
      for_tiles(tokens, tile, chunk, threads, [&](int64_t first, int64_t count) {
        pack_tokens(grad.data(), tile, y_grad + first * outputs, outputs, count);
        if (x_grad)
          gather_tile<T, V>(x_grad + first * inputs, grad.data(), weight, nullptr, graph, count);
        if (weights) {
          pack_tokens(packed.data(), tile, x + first * inputs, inputs, count);
          add_tile_sums(sums, num_edges, [&](int64_t e) {
            const T* g = grad.data() + edges[num_edges + e] * tile;
            const T* i = packed.data() + edges[e] * tile;
            typename Simd<T>::Vector sum = Simd<T>::load(g) * Simd<T>::load(i);
            for (int v = 1; v < V; ++v)
              sum += Simd<T>::load(g + v * lanes) * Simd<T>::load(i + v * lanes);
            return sum;
          });
        }
        add_tile_sums(sums + weights, biases, [&](int64_t o) {
          const T* g = grad.data() + o * tile;
          typename Simd<T>::Vector sum = Simd<T>::load(g);
          for (int v = 1; v < V; ++v) sum += Simd<T>::load(g + v * lanes);
          return sum;
        });
      });
    });
  });
  for (int64_t chunk = 0; chunk < threads; ++chunk) {
    const T* sums = partial.data() + chunk * (weights + biases);
    for (int64_t e = 0; e < weights; ++e) weight_grad[e] += sums[e];
    for (int64_t o = 0; o < biases; ++o) bias_grad[o] += sums[weights + o];
  }
}

}  // namespace expanders
