// Copies images into packed planes.

#pragma once

#include <cstring>

#include "layout.h"
#include "simd.h"
#include "transpose.h"

namespace expanders {

// Copies a row of pixels. Rows are short, so that a call of memcpy would take longer.
template <typename T>
inline void copy_row(T* target, const T* source, int64_t count) {
  constexpr int lanes = Simd<T>::lanes;
  for (; count >= lanes; count -= lanes, target += lanes, source += lanes)
    std::memcpy(target, source, kVectorBytes);
#pragma GCC unroll 8
  for (int part = lanes / 2; part > 0; part /= 2)
    if (count & part) {
      std::memcpy(target, source, part * sizeof(T));
      target += part;
      source += part;
    }
}

template <typename T>
inline void copy_strided(T* target, int64_t target_step, const T* source, int64_t source_step,
                         int64_t count) {
  if (target_step == 1 && source_step == 1) return copy_row(target, source, count);
  if (target_step == 1 && source_step == 2) {  // a constant step, to be vectorised
    for (int64_t i = 0; i < count; ++i) target[i] = source[2 * i];
    return;
  }
  for (int64_t i = 0; i < count; ++i) target[i * target_step] = source[i * source_step];
}

// Copies channel `c` of `count` images into its padded planes, phase by phase.
template <typename T>
void pack_input(T* packed, const T* images, const Layout& at, int64_t channels, int64_t c,
                int64_t count) {
  const int64_t image_step = channels * at.h.size * at.w.size;
  const T* image = images + c * at.h.size * at.w.size;
  for (const Phase& phase : at.phases) {
    const T* line = image + phase.corner;
    T* target = packed + phase.rows.begin * at.pitch + phase.columns.begin;
    packed += at.input_plane;
    for (int64_t row = phase.has_taps ? phase.rows.size() : 0; row > 0; --row) {
      for (int64_t n = 0; n < count; ++n)
        copy_strided(target + n * at.slot, 1, line + n * image_step, at.w.stride,
                     phase.columns.size());
      line += at.h.stride * at.w.size;
      target += at.pitch;
    }
  }
}

template <typename T>
void pack_grad(T* packed, const T* images, const Layout& at, int64_t channels, int64_t c,
               int64_t count) {
  const int64_t height = at.h.out(), width = at.w.out();
  for (int64_t row = 0; row < height; ++row)
    for (int64_t n = 0; n < count; ++n)
      copy_row(packed + at.grad_origin + row * at.pitch + n * at.slot,
               images + ((n * channels + c) * height + row) * width, width);
}

// Copies channels [0, channels) of `count` interleaved images. Those of an image lie in one piece;
// pixel p goes to positions[p] of its channel's plane.
template <typename T>
void pack_interleaved(T* packed, int64_t plane, const std::vector<int64_t>& positions,
                      const T* images, int64_t image_step, int64_t channels, int64_t count) {
  const int64_t pixels = positions.size();
  int64_t pixel = 0;
  for_features(images, image_step, channels * pixels, count,
               [&](int64_t, typename Simd<T>::Vector v) {
                 Simd<T>::store(packed + positions[pixel], v);
                 if (++pixel < pixels) return;
                 pixel = 0;
                 packed += plane;
               });
}

}  // namespace expanders
