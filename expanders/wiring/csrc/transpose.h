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

// packed[f * tile + t] = rows[t * features + f], or 0 from token `count` on.
template <typename T>
void pack_tokens(T* packed, int64_t tile, const T* rows, int64_t features, int64_t count) {
  constexpr int lanes = Simd<T>::lanes, ahead = kAhead / sizeof(T);
  typename Simd<T>::Vector square[lanes];
  for (int64_t t = 0; t < tile; t += lanes)
    for (int64_t f = 0; f < features; f += lanes) {
      const T* corner = rows + t * features + f;
      T* target = packed + f * tile + t;
      if (t + lanes <= count && f + lanes <= features) {
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) {
          __builtin_prefetch(corner + i * features + ahead);
          square[i] = Simd<T>::load(corner + i * features);
        }
        transpose<T>(square);
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) Simd<T>::store(target + i * tile, square[i]);
        continue;
      }
      const int64_t width = std::min<int64_t>(lanes, features - f);
      for (int i = 0; i < lanes; ++i) {
        square[i] = typename Simd<T>::Vector{};
        if (t + i < count) std::memcpy(&square[i], corner + i * features, width * sizeof(T));
      }
      transpose<T>(square);
      for (int64_t i = 0; i < width; ++i) Simd<T>::store(target + i * tile, square[i]);
    }
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
