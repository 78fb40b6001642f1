// Where the pixels of images lie in packed planes, in which a kernel tap is a constant offset in
// memory. Several small images share a plane, so that rows are as long as vectors: side by side, or,
// if they are very small, interleaved, so that the same pixel of all of them is one vector.
// For a stride s, a plane is split into s*s phases (every s-th row and column).

#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace expanders {

using std::int64_t;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// One spatial axis of a convolution. Positions on the padded input are q * stride + phase.
struct Axis {
  int64_t size, kernel, stride, before, after, dilation;

  int64_t out() const { return (before + size + after - (kernel - 1) * dilation - 1) / stride + 1; }
  int64_t phase(int64_t tap) const { return tap * dilation % stride; }
  int64_t shift(int64_t tap) const { return tap * dilation / stride; }
  int64_t reach() const { return shift(kernel - 1); }
  bool has_taps(int64_t of_phase) const {
    for (int64_t tap = 0; tap < kernel; ++tap)
      if (phase(tap) == of_phase) return true;
    return false;
  }
  // Input positions [first, last) of a phase that are pixels, not padding.
  int64_t first(int64_t phase) const {
    return ceil_div(std::max<int64_t>(before - phase, 0), stride);
  }
  int64_t last(int64_t phase) const {
    return std::max(ceil_div(std::max<int64_t>(before + size - phase, 0), stride), first(phase));
  }
};

// A column of the kernel: `height` taps, one packed row apart, of weights `step` apart.
struct Column {
  int64_t offset, weight, step;
};

struct Span {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// Every s-th row and column of an image: where its pixels lie in a packed plane, and the first of
// them in the image.
struct Phase {
  Span rows, columns;
  int64_t corner;
  bool has_taps;
};

constexpr int64_t kWidestInterleaved = 4;  // pixels of a row

// How images are packed: `images` in a plane. Pixel (y, x) of image n has the position
// y * pitch + x * step + n * slot. Computed are `padded` positions of a row, in blocks of block_rows
// rows and block_vectors vectors.
struct Layout {
  Axis h, w;
  int lanes, block_rows, block_vectors;
  bool interleaved;
  int64_t images, slot, step, row_vectors, padded, pitch, input_plane, grad_plane, grad_origin;
  std::vector<Phase> phases;
  // Of each pixel of the first image, in a packed channel of the input and of the output gradient.
  std::vector<int64_t> input_positions, grad_positions;

  Layout(Axis h, Axis w, int lanes, int64_t batch)
      : h(h), w(w), lanes(lanes), interleaved(batch >= lanes && w.size <= kWidestInterleaved) {
    const int64_t gap =
        std::max<int64_t>({0, w.reach() - w.first(w.stride - 1), w.last(0) - w.out()});
    const int64_t width =  // of an image with its margins
        std::max(ceil_div(w.size + std::max(w.before, w.after), w.stride), w.out() + gap);
    slot = interleaved ? 1 : width;
    step = interleaved ? lanes : 1;
    choose_images_and_block(batch);
    const int64_t rows = std::max(round_up(h.out(), block_rows),
                                  h.first(h.stride - 1) + round_up(h.last(0), block_rows));
    padded = round_up(row_vectors, block_vectors) * lanes;
    pitch = std::max(images * width, padded);
    const int64_t slack = (w.last(0) + w.reach()) * step + padded;
    input_plane = (rows + h.reach()) * pitch + slack;
    grad_origin = h.reach() * pitch + w.reach() * step;
    grad_plane = (rows + h.reach()) * pitch + grad_origin + slack;
    for (int64_t py = 0; py < h.stride; ++py)
      for (int64_t px = 0; px < w.stride; ++px) {
        const Span rows{h.first(py), h.last(py)}, columns{w.first(px), w.last(px)};
        phases.push_back({rows, columns,
                          (rows.begin * h.stride + py - h.before) * w.size +
                              columns.begin * w.stride + px - w.before,
                          h.has_taps(py) && w.has_taps(px)});
      }
    for (int64_t y = h.before; y < h.before + h.size; ++y)
      for (int64_t x = w.before; x < w.before + w.size; ++x)
        input_positions.push_back((y % h.stride * w.stride + x % w.stride) * input_plane +
                                  y / h.stride * pitch + x / w.stride * step);
    for (int64_t y = 0; y < h.out(); ++y)
      for (int64_t x = 0; x < w.out(); ++x)
        grad_positions.push_back(grad_origin + y * pitch + x * step);
  }

  int64_t taps() const { return h.kernel * w.kernel; }
  int64_t input_channel() const { return phases.size() * input_plane; }
  int64_t tap_phase(int64_t y, int64_t x) const { return h.phase(y) * w.stride + w.phase(x); }
  int64_t tap_shift(int64_t y, int64_t x) const { return h.shift(y) * pitch + w.shift(x) * step; }
  int64_t tap_offset(int64_t y, int64_t x) const {
    return tap_phase(y, x) * input_plane + tap_shift(y, x);
  }

 private:
  // The fewest images and the block that together waste the least, in rows of at most 8 vectors.
  void choose_images_and_block(int64_t batch) {
    const int64_t width = std::max(w.out(), w.last(0) - w.first(w.stride - 1));
    int64_t least = 0;  // vectors computed for `images` images
    images = 0;
    for (int64_t n = interleaved ? lanes : 1; n <= std::max<int64_t>(batch, 1); ++n) {
      const int64_t vectors = interleaved ? width : ceil_div((n - 1) * slot + width, lanes);
      if (images > 0 && (interleaved || vectors > 8)) break;
      for (auto [rows, columns] : {std::pair{8, 1}, {4, 2}, {2, 4}, {1, 8}, {4, 1}, {2, 1}}) {
        const int64_t computed = round_up(h.out(), rows) * round_up(vectors, columns);
        if (images > 0 && computed * images >= least * n) continue;
        least = computed;
        images = n;
        row_vectors = vectors;
        block_rows = rows;
        block_vectors = columns;
      }
    }
  }
};

// The nonzero taps of one phase of the input: as columns if the rows of the kernel are neighbours
// in memory, as single taps otherwise. Reversed for the gradient of the input.
struct Taps {
  int height = 1;
  std::vector<Column> columns;

  Taps(const Layout& at, int64_t phase, bool reversed) {
    const bool whole = at.h.stride == 1 && at.h.dilation == 1 && at.h.kernel == 3;
    height = whole ? 3 : 1;
    for (int64_t y = 0; y < at.h.kernel; y += height)
      for (int64_t x = 0; x < at.w.kernel; ++x) {
        const int64_t weight = y * at.w.kernel + x;
        if (!reversed)
          columns.push_back({at.tap_offset(y, x), weight, at.w.kernel});
        else if (at.tap_phase(y, x) == phase)
          columns.push_back({-at.tap_shift(y + height - 1, x), weight + (height - 1) * at.w.kernel,
                             -at.w.kernel});
      }
  }
};

}  // namespace expanders
