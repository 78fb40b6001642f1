// Copies between rows of features, one a token, and rows of tokens, one a feature.

#pragma once

#include <algorithm>
#include <cstring>

#include "layout.h"
#include "simd.h"

namespace expanders {

// Transposes a square of vectors: each of log2(lanes) rounds interleaves its halves.
template <typename T>
inline __attribute__((always_inline)) void transpose(
    typename Simd<T>::Vector (&square)[Simd<T>::lanes]) {
  constexpr int lanes = Simd<T>::lanes;
#pragma GCC unroll 8
  for (int round = 1; round < lanes; round *= 2) {
    typename Simd<T>::Vector mixed[lanes];
#pragma GCC unroll 16
    for (int i = 0; i < lanes / 2; ++i)
      Simd<T>::interleave(square[i], square[i + lanes / 2], mixed[2 * i], mixed[2 * i + 1]);
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) square[i] = mixed[i];
  }
}

// How many bytes ahead rows are fetched: more of them than the processor follows by itself.
constexpr int64_t kAhead = 256;

// Calls store(f, vector) for all features f in turn: feature f of so many tokens as a vector has
// lanes, 0 from token `count` on. Rows are `row_step` apart.
template <typename T, typename Store>
void for_features(const T* rows, int64_t row_step, int64_t features, int64_t count,
                  const Store& store) {
  constexpr int lanes = Simd<T>::lanes, ahead = kAhead / sizeof(T);
  typename Simd<T>::Vector square[lanes];
  for (int64_t f = 0; f < features; f += lanes) {
    if (lanes <= count && f + lanes <= features) {
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) {
        __builtin_prefetch(rows + f + i * row_step + ahead);
        square[i] = Simd<T>::load(rows + f + i * row_step);
      }
      transpose<T>(square);
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) store(f + i, square[i]);
      continue;
    }
    const int64_t width = std::min<int64_t>(lanes, features - f);
    for (int i = 0; i < lanes; ++i) {
      square[i] = typename Simd<T>::Vector{};
      if (i < count) std::memcpy(&square[i], rows + f + i * row_step, width * sizeof(T));
    }
    transpose<T>(square);
    for (int64_t i = 0; i < width; ++i) store(f + i, square[i]);
  }
}

// packed[f * tile + t] = rows[t * features + f], or 0 from token `count` on.
template <typename T>
void pack_tokens(T* packed, int64_t tile, const T* rows, int64_t features, int64_t count) {
  for (int64_t t = 0; t < tile; t += Simd<T>::lanes)
    for_features(rows + t * features, features, features, count - t,
                 [&](int64_t f, typename Simd<T>::Vector v) {
                   Simd<T>::store(packed + f * tile + t, v);
                 });
}

// rows[t * features + f] = packed[f * tile + t] + bias[f] for `width` features and `count` tokens.
template <typename T>
void unpack_tokens(T* rows, int64_t features, const T* packed, int64_t tile, int64_t width,
                   int64_t count, const T* bias) {
  constexpr int lanes = Simd<T>::lanes, ahead = kAhead / sizeof(T);
  typename Simd<T>::Vector square[lanes];
  for (int64_t t = 0; t < count; t += lanes)
    for (int64_t f = 0; f < width; f += lanes) {
      const T* source = packed + f * tile + t;
      T* corner = rows + t * features + f;
      const int64_t wide = std::min<int64_t>(lanes, width - f);
      typename Simd<T>::Vector shift = {};
      if (bias) std::memcpy(&shift, bias + f, wide * sizeof(T));
      if (wide == lanes) {
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) square[i] = Simd<T>::load(source + i * tile);
      } else {
        for (int64_t i = 0; i < lanes; ++i)
          square[i] = i < wide ? Simd<T>::load(source + i * tile) : typename Simd<T>::Vector{};
      }
      transpose<T>(square);
      if (wide == lanes && t + lanes <= count) {
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) {
          __builtin_prefetch(corner + i * features + ahead, 1);
          Simd<T>::store(corner + i * features, square[i] + shift);
        }
        continue;
      }
      for (int64_t i = 0; i < std::min<int64_t>(lanes, count - t); ++i) {
        const auto row = square[i] + shift;
        std::memcpy(corner + i * features, &row, wide * sizeof(T));
      }
    }
}

}  // namespace expanders
