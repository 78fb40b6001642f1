// Max-pooling of contiguous images for the CPU: square windows, `stride` pixels apart.
//
// Pixels at the same place of neighbouring windows lie `stride` apart. The padded image is therefore
// split into phases: phase (a, b) holds the pixels of rows a, a + stride, ... and of columns b,
// b + stride, ..., so that those at one place of all windows follow each other, also across rows and
// images. All comparisons are then of whole vectors, however small the images. Values, places and
// gradients are those of PyTorch's own operator, bit by bit: of equal pixels the first counts, of
// several NaN the last, and the gradients of a pixel are added in the order of the windows.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <tuple>
#include <type_traits>
#include <vector>

#include "pairs.h"
#include "simd.h"

namespace expanders {
namespace {

using at::Tensor;

constexpr int64_t kBlock = 4096;         // pixels that are split together, in whole images
constexpr int64_t kLeastWork = 1 << 14;  // pixels for which another thread is worth waking
constexpr int64_t kLargest = 15;         // a place in a window fits a byte

// Calls work(stride), as a constant where it is usual: the compiler then makes vectors of strides.
template <typename Work>
void with_stride(int64_t stride, const Work& work) {
  switch (stride) {
    case 1: return work(std::integral_constant<int64_t, 1>{});
    case 2: return work(std::integral_constant<int64_t, 2>{});
    case 3: return work(std::integral_constant<int64_t, 3>{});
    default: return work(stride);
  }
}

// Windows of size x size pixels of `count` images. A phase holds `grid` numbers of each: in rows of
// `grid_width`, of which the first `width` are at the first pixels of windows.
struct Windows {
  int64_t count, in_height, in_width, size, stride, padding;
  int64_t height = (in_height + 2 * padding - size) / stride + 1;
  int64_t width = (in_width + 2 * padding - size) / stride + 1;
  int64_t more = (size - 1) / stride;  // rows and columns beyond those
  int64_t grid_width = width + more, grid = (height + more) * grid_width;
  int64_t block = std::clamp<int64_t>(kBlock / (grid * stride * stride), 1, count);  // images
  int64_t numbers = block * grid;                       // of a phase
  int64_t phase = numbers + more * (grid_width + 1);    // windows of no image read so far

  int64_t in() const { return in_height * in_width; }
  int64_t out() const { return height * width; }

  // Whether they are 2x2 pixels and leave no rest.
  bool are_pairs() const {
    const bool whole = padding == 0 && in_height % 2 == 0 && in_width % 2 == 0;
    return size == 2 && stride == 2 && whole && 2 * in_width <= kStrip;
  }

  // From the start of all phases to the pixel at a place of the first window.
  int64_t offset(int64_t place) const {
    const int64_t y = place / size, x = place % size;
    return (y % stride * stride + x % stride) * phase + y / stride * grid_width + x / stride;
  }

  // Calls work(own, first, images) for blocks of images, on all threads; each has its own copy.
  template <typename Own, typename Work>
  void for_blocks(const Own& original, const Work& work) const {
    const int64_t grain = 1 + kLeastWork / (block * in());
    at::parallel_for(0, (count + block - 1) / block, grain, [&](int64_t begin, int64_t end) {
      Own own = original;
      for (int64_t b = begin; b < end; ++b)
        work(own, b * block, std::min(block, count - b * block));
    });
  }

  // Calls work(from, to, length) for pieces of outputs: their positions in the images and in the
  // grid.
  template <typename Work>
  void for_outputs(int64_t images, const Work& work) const {
    if (!more) return work(0, 0, images * out());
    for (int64_t n = 0; n < images; ++n)
      for (int64_t y = 0; y < height; ++y)
        work((n * height + y) * width, n * grid + y * grid_width, width);
  }

  // Calls work(pixel, number) for all pixels that windows can reach: their positions in the images
  // and in the phases.
  template <typename Work>
  void for_pixels(int64_t images, const Work& work) const {
    const int64_t rows = std::min(in_height, (height + more) * stride - padding);
    const int64_t columns = std::min(in_width, grid_width * stride - padding);
    with_stride(stride, [&](auto step) {
      for (int64_t row = 0; row < images * rows; ++row) {
        const int64_t n = row / rows, y = row % rows;
        const int64_t from = (n * in_height + y) * in_width;
        const int64_t to = (y + padding) % step * step * phase + n * grid +
                           (y + padding) / step * grid_width;
        const auto number = [&](int64_t x) {
          return to + (x + padding) % step * phase + (x + padding) / step;
        };
        int64_t done = 0;
        if constexpr (!std::is_same_v<decltype(step), int64_t>) {
          int64_t first[step];
          for (int64_t r = 0; r < step; ++r) first[r] = number(r);
          done = columns / step * step;
#pragma omp simd
          for (int64_t i = 0; i < columns / step; ++i)
#pragma GCC unroll 4
            for (int64_t r = 0; r < step; ++r) work(from + i * step + r, first[r] + i);
        }
        for (int64_t x = done; x < columns; ++x) work(from + x, number(x));
      }
    });
  }
};

// What a thread works on: the phases of a block, and for each window a value and a place in it.
template <typename T>
struct Scratch {
  using Place = typename Simd<T>::Index;
  std::vector<T> phases, values;
  std::vector<Place> places;

  Scratch(const Windows& of, T padding)
      : phases(of.stride * of.stride * of.phase, padding),
        values(of.numbers),
        places(of.numbers) {}
};

// The largest pixel of each window, and its place there: row * size + column.
template <bool Places, typename T>
void forward(T* y, std::uint8_t* places, const T* x, const Windows& of) {
  constexpr T lowest = -std::numeric_limits<T>::infinity();  // the padding, which stays so
  Scratch<T> start(of, lowest);
  for (int64_t i = 0; Places && i < of.numbers; ++i) {  // pixels that the padding must not precede
    const int64_t row = i % of.grid / of.grid_width, column = i % of.grid_width;
    start.places[i] = std::max<int64_t>(of.padding - row * of.stride, 0) * of.size +
                      std::max<int64_t>(of.padding - column * of.stride, 0);
  }
  of.for_blocks(start, [&](Scratch<T>& own, int64_t first, int64_t images) {
    const T* source = x + first * of.in();
    T *phases = own.phases.data(), *values = own.values.data();
    auto* found = own.places.data();
    of.for_pixels(images, [=](int64_t pixel, int64_t number) { phases[number] = source[pixel]; });
    std::fill_n(values, of.numbers, lowest);
    if (Places) std::copy(start.places.begin(), start.places.end(), found);
    for (int64_t place = 0; place < of.size * of.size; ++place) {
      const T* pixels = phases + of.offset(place);
#pragma omp simd
      for (int64_t i = 0; i < images * of.grid; ++i) {
        const T value = pixels[i], before = values[i];
        const bool counts = (value > before) | (value != value);
        values[i] = counts ? value : before;
        if (Places) found[i] = counts ? place : found[i];
      }
    }
    of.for_outputs(images, [&](int64_t to, int64_t from, int64_t length) {
      std::copy_n(values + from, length, y + first * of.out() + to);
      if (Places) std::copy_n(found + from, length, places + first * of.out() + to);
    });
  });
}

// 2x2 pixels without a rest, and without places: only the largest numbers.
template <typename T>
void forward_of_pairs(T* y, const T* x, const Windows& of) {
  const int64_t step = kStrip / (2 * of.in_width) * 2 * of.in_width;  // pairs of rows
  const int64_t end = of.count * of.in();
  at::parallel_for(0, (end + step - 1) / step, 1 + kLeastWork / step,
                   [&](int64_t first, int64_t last) {
                     for (int64_t i = first * step; i < std::min(last * step, end); i += step)
                       pool(y + i / 4, x + i, std::min(step, end - i), of.in_width);
                   });
}

// The gradient of the images: that of each window is added to its largest pixel.
template <typename T>
void backward(T* x_grad, const T* grad, const std::uint8_t* places, const Windows& of) {
  std::array<int64_t, kLargest * kLargest> offset;  // of a place from a window's first pixel
  for (int64_t i = 0; i < of.size * of.size; ++i)
    offset[i] = i / of.size * of.in_width + i % of.size;
  at::parallel_for(0, of.count, 1 + kLeastWork / of.in(), [&](int64_t begin, int64_t end) {
    std::fill(x_grad + begin * of.in(), x_grad + end * of.in(), T{0});
    for (int64_t row = begin * of.height; row < end * of.height; ++row) {
      const int64_t y = row % of.height * of.stride - of.padding;
      T* target = x_grad + row / of.height * of.in() + y * of.in_width - of.padding;
      for (int64_t i = 0; i < of.width; ++i)
        target[i * of.stride + offset[places[row * of.width + i]]] += grad[row * of.width + i];
    }
  });
}

// ---------------------------------------------------------------------------- operators

Windows windows(int64_t count, int64_t height, int64_t width, int64_t size, int64_t stride,
                int64_t padding) {
  TORCH_CHECK(1 <= size && size <= kLargest && 1 <= stride && 0 <= padding && 2 * padding <= size,
              "max_pool2d: takes windows of at most ", kLargest, "x", kLargest,
              " pixels, a stride of at least 1 and a padding of at most half a window");
  TORCH_CHECK(count > 0 && std::min(height, width) + 2 * padding >= size,
              "max_pool2d: the images are smaller than a window");
  return {count, height, width, size, stride, padding};
}

std::tuple<Tensor, Tensor> max_pool2d(const Tensor& x_, int64_t size, int64_t stride,
                                      int64_t padding, bool with_places) {
  TORCH_CHECK(x_.dim() == 4, "max_pool2d: expected images (N, C, H, W)");
  const Tensor x = x_.contiguous();
  const Windows of = windows(x.size(0) * x.size(1), x.size(2), x.size(3), size, stride, padding);
  const std::vector<int64_t> sizes{x.size(0), x.size(1), of.height, of.width};
  Tensor y = at::empty(sizes, x.options());
  Tensor places = at::empty(with_places ? sizes : std::vector<int64_t>{0},
                            x.options().dtype(at::kByte));
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "max_pool2d", [&] {
    auto *values = y.mutable_data_ptr<scalar_t>();
    const auto* pixels = x.const_data_ptr<scalar_t>();
    if (with_places)
      forward<true>(values, places.mutable_data_ptr<std::uint8_t>(), pixels, of);
    else if (of.are_pairs())
      forward_of_pairs(values, pixels, of);
    else
      forward<false>(values, nullptr, pixels, of);
  });
  return {y, places};
}

Tensor max_pool2d_backward(const Tensor& grad_, const Tensor& places_, int64_t height,
                           int64_t width, int64_t size, int64_t stride, int64_t padding) {
  TORCH_CHECK(grad_.dim() == 4 && grad_.sizes() == places_.sizes(),
              "max_pool2d_backward: expected a gradient and a place for each window");
  const Tensor grad = grad_.contiguous(), places = places_.contiguous();
  const Windows of = windows(grad.size(0) * grad.size(1), height, width, size, stride, padding);
  TORCH_CHECK(of.height == grad.size(2) && of.width == grad.size(3),
              "max_pool2d_backward: the gradient is not of these windows");
  Tensor x_grad = at::empty({grad.size(0), grad.size(1), height, width}, grad.options());
  AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "max_pool2d_backward", [&] {
    backward(x_grad.mutable_data_ptr<scalar_t>(), grad.const_data_ptr<scalar_t>(),
             places.const_data_ptr<std::uint8_t>(), of);
  });
  return x_grad;
}

TORCH_LIBRARY_FRAGMENT(expanders, m) {
  m.def("max_pool2d(Tensor x, int size, int stride, int padding, bool with_places) -> "
        "(Tensor y, Tensor places)");
  m.def("max_pool2d_backward(Tensor grad, Tensor places, SymInt height, SymInt width, int size, "
        "int stride, int padding) -> Tensor");
}

TORCH_LIBRARY_IMPL(expanders, CPU, m) {
  m.impl("max_pool2d", max_pool2d);
  m.impl("max_pool2d_backward", max_pool2d_backward);
}

}  // namespace
}  // namespace expanders
