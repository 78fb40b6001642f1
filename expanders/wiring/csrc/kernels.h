// The two loops that do the work, on blocks of up to 8 vectors that stay in registers: sums over
// the edges of a channel (`gather`), and sums over the positions of a plane (`correlate`).

#pragma once

#include <limits>
#include <vector>

#include "graph.h"
#include "layout.h"
#include "simd.h"

namespace expanders {

// Adds one kernel column to a block of R rows and V vectors. Each input row is loaded once.
template <typename T, int R, int V, int K>
inline __attribute__((always_inline)) void add_column(typename Simd<T>::Vector (&sum)[R][V],
                                                      const T* input, int64_t pitch,
                                                      const T* weight, int64_t step) {
  typename Simd<T>::Vector w[K];
#pragma GCC unroll 16
  for (int k = 0; k < K; ++k) w[k] = weight[k * step] - typename Simd<T>::Vector{};
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v)
#pragma GCC unroll 16
    for (int i = 0; i < R + K - 1; ++i) {
      const auto x = Simd<T>::load(input + i * pitch + v * Simd<T>::lanes);
#pragma GCC unroll 16
      for (int k = 0; k < K; ++k)
        if (i - k >= 0 && i - k < R) sum[i - k][v] += w[k] * x;
    }
}

// What happens to sums as they are written: `shift` is added, and the larger of that and `floor`
// kept (0 for a ReLU; a NaN stays).
template <typename T>
struct Finish {
  T shift = 0, floor = -std::numeric_limits<T>::infinity();
};

// target = sum over neighbours and taps, finished, for one block of positions.
template <typename T, int R, int V, int K>
void gather(T* target, int64_t target_pitch, const T* source, int64_t plane, int64_t pitch,
            const Neighbour* begin, const Neighbour* end, const T* weight, int64_t taps,
            const std::vector<Column>& columns, Finish<T> finish) {
  typename Simd<T>::Vector sum[R][V] = {};
  for (const Neighbour* n = begin; n != end; ++n)
    for (const Column& c : columns)
      add_column<T, R, V, K>(sum, source + n->channel * plane + c.offset, pitch,
                             weight + n->edge * taps + c.weight, c.step);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      const auto value = sum[r][v] + finish.shift;
      Simd<T>::store(target + r * target_pitch + v * Simd<T>::lanes,
                     value < finish.floor ? finish.floor - typename Simd<T>::Vector{} : value);
    }
}

// sums[t] += grad * input shifted by tap t, a vector of partial sums for each of the K x M taps whose
// rows are `pitch` apart and whose columns are `Step` apart.
template <typename T, int R, int V, int K, int M, int Step>
void correlate(T* sums, const T* grad, const T* input, int64_t pitch, int64_t rows,
               int64_t row_vectors) {
  constexpr int lanes = Simd<T>::lanes;
  constexpr int copies = K * M == 1 ? R * V : 1;  // independent sums, where there is but one tap
  typename Simd<T>::Vector sum[copies][K * M] = {};
#pragma GCC unroll 16
  for (int t = 0; t < K * M; ++t) sum[0][t] = Simd<T>::load(sums + t * lanes);
  for (int64_t row = 0; row < rows; row += R)
    for (int64_t vector = 0; vector < row_vectors; vector += V) {
      const int64_t at = row * pitch + vector * lanes;
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) {
        typename Simd<T>::Vector g[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) g[r] = Simd<T>::load(grad + at + r * pitch + v * lanes);
#pragma GCC unroll 16
        for (int i = 0; i < R + K - 1; ++i)
#pragma GCC unroll 16
          for (int m = 0; m < M; ++m) {
            const auto x = Simd<T>::load(input + at + i * pitch + v * lanes + m * Step);
#pragma GCC unroll 16
            for (int k = 0; k < K; ++k)
              if (i - k >= 0 && i - k < R)
                sum[copies == 1 ? 0 : i * V + v][k * M + m] += g[i - k] * x;
          }
      }
    }
#pragma GCC unroll 16
  for (int c = 1; c < copies; ++c) sum[0][0] += sum[c][0];
#pragma GCC unroll 16
  for (int t = 0; t < K * M; ++t) Simd<T>::store(sums + t * lanes, sum[0][t]);
}

// Calls f<R, V>() for the block shape of a layout.
template <typename F>
void with_block(const Layout& at, const F& f) {
  switch (at.block_rows * 10 + at.block_vectors) {
    case 81: return f.template operator()<8, 1>();
    case 42: return f.template operator()<4, 2>();
    case 41: return f.template operator()<4, 1>();
    case 24: return f.template operator()<2, 4>();
    case 21: return f.template operator()<2, 1>();
    default: return f.template operator()<1, 8>();
  }
}

}  // namespace expanders
