// Max-pooling of 2x2 pixels in strips that consist of pairs of rows.

#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

namespace expanders {

using std::int64_t;

constexpr int64_t kStrip = 1024;  // elements; rows of that size fit the nearest cache

template <typename T>
using Row = std::array<T, kStrip>;

// Calls work(half) for the half width of images, as a constant where it is small: the compiler
// makes vectors of several short rows.
template <typename Work>
void with_half_width(int64_t width, const Work& work) {
  switch (width) {
    case 2: return work(std::integral_constant<int64_t, 1>{});
    case 4: return work(std::integral_constant<int64_t, 2>{});
    case 8: return work(std::integral_constant<int64_t, 4>{});
    default: return work(width / 2);
  }
}

// Calls work(upper, lower, pooled): positions in `larger` of the two neighbours in a column that
// make an element of a pooled strip, and that element's position.
template <typename Work>
void for_columns(int64_t length, int64_t width, const Work& work) {
  with_half_width(width, [&](auto half) {
    const int64_t rows = length / (4 * half);
    if constexpr (std::is_same_v<decltype(half), int64_t>) {
      for (int64_t row = 0; row < rows; ++row)
#pragma omp simd
        for (int64_t i = 0; i < half; ++i)
          work(2 * row * half + i, (2 * row + 1) * half + i, row * half + i);
    } else {
#pragma omp simd
      for (int64_t row = 0; row < rows; ++row)
#pragma GCC unroll 4
        for (int64_t i = 0; i < half; ++i)
          work(2 * row * half + i, (2 * row + 1) * half + i, row * half + i);
    }
  });
}

// The larger of two numbers; of equal ones the first, of NaN the last, as PyTorch has it.
template <typename T>
T larger_of(T a, T b) {
  return (b > a) | (b != b) ? b : a;
}

template <typename T>
using HalfRow = std::array<T, kStrip / 2>;

// The larger of each two elements of z that are neighbours in a row.
template <typename T>
void pool_rows(HalfRow<T>& larger, const T* z, int64_t length) {
#pragma omp simd
  for (int64_t i = 0; i < length / 2; ++i)
    larger[i] = larger_of(z[2 * i], z[2 * i + 1]);
}

// The largest of each 2x2 elements of z, or the last NaN.
template <typename T>
void pool(T* y, const T* z, int64_t length, int64_t width) {
  alignas(64) HalfRow<T> larger;
  pool_rows(larger, z, length);
  for_columns(length, width, [&](int64_t upper, int64_t lower, int64_t pooled) {
    y[pooled] = larger_of(larger[upper], larger[lower]);
  });
}

// The gradient of z from that of the pooled y. Each number goes to the first of the largest of its
// 2x2 elements, if that is above 0.
template <typename T>
void unpool(T* z_grad, const T* grad, const T* z, int64_t length, int64_t width) {
  alignas(64) HalfRow<T> larger, larger_grad;
  pool_rows(larger, z, length);
  for_columns(length, width, [&](int64_t upper, int64_t lower, int64_t pooled) {
    const T a = larger[upper], b = larger[lower], g = grad[pooled];
    const T upper_grad = a < b || a <= 0 ? T{0} : g;
    const T lower_grad = a < b && b > 0 ? g : T{0};
    larger_grad[upper] = upper_grad;
    larger_grad[lower] = lower_grad;
  });
#pragma omp simd
  for (int64_t i = 0; i < length / 2; ++i) {
    const T a = z[2 * i], b = z[2 * i + 1], g = larger_grad[i];
    z_grad[2 * i] = a < b ? T{0} : g;
    z_grad[2 * i + 1] = a < b ? g : T{0};
  }
}

}  // namespace expanders
