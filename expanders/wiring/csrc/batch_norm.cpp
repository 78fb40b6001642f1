// Batch norm in training, with what follows it in most networks, for the CPU:
//
//   z = (x - mean) * weight / sqrt(var + eps) + bias (+ residual)
//   y = z, kept between two bounds (0 and infinity: ReLU; 0 and 6: ReLU6), or with pooling the
//       largest of each 2x2 pixels of max(z, 0)
//
// mean and var are of a channel over all images and pixels. Memory is passed over as few times as
// possible: forward reads x for the statistics, reads it again and writes y; backward reads x and
// the gradient twice and writes the gradient of x. All passes over a channel follow each other, so
// that the later ones find it in the cache. Backward needs x and the statistics only: it finds again
// where z lies between the bounds (with a residual, from y), and which pixels are the largest. No
// sum depends on the number of threads.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "pairs.h"

namespace expanders {
namespace {

using at::Tensor;
using std::int64_t;
using MaybeTensor = std::optional<Tensor>;

constexpr int64_t kShortest = 256;       // elements of a strip, if there are enough channels
constexpr int64_t kSummed = 128;         // numbers summed in T before they are added to a double
constexpr int64_t kLeastWork = 1 << 14;  // elements for which another thread is worth waking

template <int Write = 0, typename T>
void prefetch(const T* row, int64_t length) {
  for (int64_t i = 0; i < length; i += 64 / sizeof(T)) __builtin_prefetch(row + i, Write);
}

// Channels [first, last) of all images.
struct Block {
  int64_t first, last;
};

// What lies in one piece in every image: `length` elements, `begin` elements from its start. It
// holds several whole channels or a part of one.
struct Strip {
  int64_t begin, length;
};

// Contiguous images (count, channels, height, width).
struct Images {
  int64_t count, channels, height, width;

  int64_t pixels() const { return height * width; }
  int64_t image() const { return channels * pixels(); }
  double elements() const { return static_cast<double>(count * pixels()); }  // of a channel

  // Calls work(block) for all channels, on all threads.
  template <typename Work>
  void for_blocks(const Work& work) const {
    const int64_t size = std::clamp<int64_t>(kShortest / pixels(), 1, channels);
    const int64_t blocks = (channels + size - 1) / size;
    const int64_t grain = 1 + kLeastWork / (count * pixels() * size);
    at::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b)
        work(Block{b * size, std::min((b + 1) * size, channels)});
    });
  }

  // Calls work(strip) for the strips of a block. Each consists of pairs of rows, if one fits.
  template <typename Work>
  void for_strips(Block block, const Work& work) const {
    const int64_t unit = 2 * width <= kStrip && height % 2 == 0 ? 2 * width : 1;
    const int64_t step = kStrip / unit * unit, end = block.last * pixels();
    for (int64_t begin = block.first * pixels(); begin < end; begin += step)
      work(Strip{begin, std::min(step, end - begin)});
  }

  // Calls work(channel, from, to) for the elements [from, to) of each channel in a strip.
  template <typename Work>
  void for_channels(Strip strip, const Work& work) const {
    for (int64_t from = 0; from < strip.length;) {
      const int64_t channel = (strip.begin + from) / pixels();
      const int64_t to = std::min((channel + 1) * pixels() - strip.begin, strip.length);
      work(channel, from, to);
      from = to;
    }
  }

  // row[i] = the value of the channel of a strip's element i.
  template <typename T>
  void expand(Row<T>& row, const T* values, Strip strip) const {
    for_channels(strip, [&](int64_t channel, int64_t from, int64_t to) {
      std::fill(row.begin() + from, row.begin() + to, values[channel]);
    });
  }
};

// Sums over images and pixels of two numbers of each element. add(image, strip, a, b) adds those of
// a strip of one image to rows a and b; prepare(strip) is called first.
template <typename T, typename Prepare, typename Add>
void sum_pairs(double* a_sum, double* b_sum, const Images& in, Block block, const Prepare& prepare,
               const Add& add) {
  alignas(64) Row<T> a, b;
  in.for_strips(block, [&](Strip strip) {
    prepare(strip);
    for (int64_t n = 0; n < in.count; n += kSummed) {
      std::fill_n(a.begin(), strip.length, T{0});
      std::fill_n(b.begin(), strip.length, T{0});
      for (int64_t image = n; image < std::min(n + kSummed, in.count); ++image)
        add(image, strip, a.data(), b.data());
      in.for_channels(strip, [&](int64_t channel, int64_t from, int64_t to) {
        double s = 0, t = 0;
#pragma omp simd reduction(+ : s, t)
        for (int64_t i = from; i < to; ++i) {
          s += a[i];
          t += b[i];
        }
        a_sum[channel] += s;
        b_sum[channel] += t;
      });
    }
  });
}

// ---------------------------------------------------------------------------- statistics

template <typename T>
void find_statistics(T* mean, T* var, const T* x, const Images& in, Block block) {
  // Squares of distances from the mean of the first image, which is near that of all: they lose
  // no digits.
  for (int64_t c = block.first; c < block.last; ++c) {
    double sum = 0;
    for (int64_t i = 0; i < in.pixels(); ++i) sum += x[c * in.pixels() + i];
    mean[c] = static_cast<T>(sum / static_cast<double>(in.pixels()));
  }
  std::vector<double> sum(block.last - block.first), squares(block.last - block.first);
  alignas(64) Row<T> near;
  sum_pairs<T>(
      sum.data() - block.first, squares.data() - block.first, in, block,
      [&](Strip strip) { in.expand(near, mean, strip); },
      [&](int64_t image, Strip strip, T* a, T* b) {
        const T* row = x + image * in.image() + strip.begin;
        if (image + 1 < in.count) prefetch(row + in.image(), strip.length);
#pragma omp simd
        for (int64_t i = 0; i < strip.length; ++i) {
          const T distance = row[i] - near[i];
          a[i] += distance;
          b[i] += distance * distance;
        }
      });
  for (int64_t c = block.first; c < block.last; ++c) {
    const double distance = sum[c - block.first] / in.elements();
    const double square = squares[c - block.first] / in.elements();
    mean[c] = static_cast<T>(mean[c] + distance);
    var[c] = static_cast<T>(square > 0 ? std::max(square - distance * distance, 0.0) : square);
  }
}

// z = x * scale + shift, for each channel.
template <typename T>
struct Affine {
  std::vector<T> scale, shift;

  explicit Affine(int64_t channels) : scale(channels), shift(channels) {}

  void set(int64_t c, T mean, T var, const T* weight, const T* bias, double eps) {
    scale[c] = static_cast<T>((weight ? weight[c] : T{1}) / std::sqrt(var + eps));
    shift[c] = (bias ? bias[c] : T{0}) - mean * scale[c];
  }
};

// ---------------------------------------------------------------------------- forward

template <typename T>
struct Problem {
  Images in;
  double eps;
  T low, high;  // bounds of y; NaN, beyond which there is nothing, where there is none
  bool pool;
  const T *x, *weight, *bias, *residual;  // the last three may be null

  bool is_bounded() const { return !std::isnan(low) || !std::isnan(high); }
  T bounded(T z) const { return z < low ? low : z > high ? high : z; }
  // Its derivative times `grad`.
  T bounded_grad(T z, T grad) const { return (z <= low) | (z >= high) ? T{0} : grad; }

  // Elements of a pooled strip: a quarter.
  int64_t out(int64_t elements) const { return pool ? elements / 4 : elements; }
};

template <typename T>
void forward(T* y, T* mean, T* var, const Problem<T>& of) {
  const Images& in = of.in;
  Affine<T> affine(in.channels);
  in.for_blocks([&](Block block) {
    find_statistics(mean, var, of.x, in, block);
    for (int64_t c = block.first; c < block.last; ++c)
      affine.set(c, mean[c], var[c], of.weight, of.bias, of.eps);
    alignas(64) Row<T> scale, shift, z;
    in.for_strips(block, [&](Strip strip) {
      in.expand(scale, affine.scale.data(), strip);
      in.expand(shift, affine.shift.data(), strip);
      for (int64_t n = 0; n < in.count; ++n) {
        const int64_t start = n * in.image() + strip.begin;
        const T* x = of.x + start;
        T* target = of.pool ? z.data() : y + start;
        if (n + 1 < in.count) prefetch<1>(y + of.out(start + in.image()), of.out(strip.length));
        if (of.residual) {
          const T* residual = of.residual + start;
#pragma omp simd
          for (int64_t i = 0; i < strip.length; ++i)
            target[i] = of.bounded(x[i] * scale[i] + shift[i] + residual[i]);
        } else {
#pragma omp simd
          for (int64_t i = 0; i < strip.length; ++i)
            target[i] = of.bounded(x[i] * scale[i] + shift[i]);
        }
        if (of.pool) pool(y + start / 4, z.data(), strip.length, in.width);
      }
    });
  });
}

// ---------------------------------------------------------------------------- backward

// The gradient of z in a strip of one image: `grad` itself, or computed into `row`.
template <typename T>
struct ZGrad {
  const Problem<T>& of;
  const T *grad, *y;
  const Affine<T>& affine;
  alignas(64) Row<T> scale, shift, z, row;

  void prepare(Strip strip) {
    of.in.expand(scale, affine.scale.data(), strip);
    of.in.expand(shift, affine.shift.data(), strip);
  }

  const T* of_image(int64_t image, Strip strip) {
    const int64_t start = image * of.in.image() + strip.begin;
    const T *from = grad + of.out(start), *x = of.x + start;
    if (image + 1 < of.in.count) {
      prefetch(x + of.in.image(), strip.length);
      prefetch(from + of.out(of.in.image()), of.out(strip.length));
    }
    if (!of.is_bounded()) return from;
    if (of.residual) {
      const T* sum = y + start;
#pragma omp simd
      for (int64_t i = 0; i < strip.length; ++i) row[i] = of.bounded_grad(sum[i], from[i]);
    } else if (of.pool) {
#pragma omp simd
      for (int64_t i = 0; i < strip.length; ++i) z[i] = x[i] * scale[i] + shift[i];
      unpool(row.data(), from, z.data(), strip.length, of.in.width);
    } else {
#pragma omp simd
      for (int64_t i = 0; i < strip.length; ++i)
        row[i] = of.bounded_grad(x[i] * scale[i] + shift[i], from[i]);
    }
    return row.data();
  }
};

// With g the gradient of z, and sums over all elements of the channel:
//   weight_grad = sum(g * (x - mean)) / std,   bias_grad = sum(g),   residual_grad = g
//   x_grad = scale * (g - sum(g) / elements - (x - mean) * sum(g * (x - mean)) / var / elements)
template <typename T>
void backward(T* x_grad, T* weight_grad, T* bias_grad, T* residual_grad, const T* grad, const T* y,
              const T* mean, const T* var, const Problem<T>& of) {
  const Images& in = of.in;
  Affine<T> affine(in.channels);
  std::vector<double> sum(in.channels), product(in.channels);
  std::vector<T> slope(in.channels), constant(in.channels);
  in.for_blocks([&](Block block) {
    for (int64_t c = block.first; c < block.last; ++c)
      affine.set(c, mean[c], var[c], of.weight, of.bias, of.eps);
    ZGrad<T> z_grad{of, grad, y, affine, {}, {}, {}, {}};
    alignas(64) Row<T> centre, slopes, constants;
    sum_pairs<T>(
        sum.data(), product.data(), in, block,
        [&](Strip strip) {
          z_grad.prepare(strip);
          in.expand(centre, mean, strip);
        },
        [&](int64_t image, Strip strip, T* a, T* b) {
          const T* g = z_grad.of_image(image, strip);
          const T* x = of.x + image * in.image() + strip.begin;
#pragma omp simd
          for (int64_t i = 0; i < strip.length; ++i) {
            a[i] += g[i];
            b[i] += g[i] * (x[i] - centre[i]);
          }
          if (residual_grad)
            std::copy_n(g, strip.length, residual_grad + image * in.image() + strip.begin);
        });
    for (int64_t c = block.first; c < block.last; ++c) {
      const double inverse = 1 / (var[c] + of.eps);
      bias_grad[c] = static_cast<T>(sum[c]);
      weight_grad[c] = static_cast<T>(product[c] * std::sqrt(inverse));
      slope[c] = static_cast<T>(-affine.scale[c] * product[c] * inverse / in.elements());
      constant[c] = static_cast<T>(-affine.scale[c] * sum[c] / in.elements());
    }
    in.for_strips(block, [&](Strip strip) {
      z_grad.prepare(strip);
      in.expand(centre, mean, strip);
      in.expand(slopes, slope.data(), strip);
      in.expand(constants, constant.data(), strip);
      for (int64_t n = 0; n < in.count; ++n) {
        const T* g = z_grad.of_image(n, strip);
        const T* x = of.x + n * in.image() + strip.begin;
        T* target = x_grad + n * in.image() + strip.begin;
        if (n + 1 < in.count) prefetch<1>(target + in.image(), strip.length);
#pragma omp simd
        for (int64_t i = 0; i < strip.length; ++i)
          target[i] =
              z_grad.scale[i] * g[i] + (x[i] - centre[i]) * slopes[i] + constants[i];
      }
    });
  });
}

// ---------------------------------------------------------------------------- operators

template <typename T>
const T* data(const MaybeTensor& tensor) {
  return tensor ? tensor->const_data_ptr<T>() : nullptr;
}

MaybeTensor contiguous(const MaybeTensor& tensor) {
  return tensor ? MaybeTensor(tensor->contiguous()) : std::nullopt;
}

template <typename T>
Problem<T> problem(const Tensor& x, const MaybeTensor& weight, const MaybeTensor& bias,
                   const MaybeTensor& residual, double eps, double low, double high, bool pool) {
  const Images in{x.size(0), x.size(1), x.size(2), x.size(3)};
  const auto bound = [](double value) {
    return std::isinf(value) ? std::numeric_limits<T>::quiet_NaN() : static_cast<T>(value);
  };
  return {in,   eps, bound(low), bound(high), pool, x.const_data_ptr<T>(),
          data<T>(weight), data<T>(bias), data<T>(residual)};
}

void check(const Tensor& x, const MaybeTensor& weight, const MaybeTensor& bias,
           const MaybeTensor& residual, double low, double high, bool pool) {
  TORCH_CHECK(x.dim() == 4 && x.numel() > 0, "batch_norm: expected images (N, C, H, W)");
  for (const MaybeTensor* vector : {&weight, &bias})
    TORCH_CHECK(!*vector || ((*vector)->numel() == x.size(1) &&
                             (*vector)->scalar_type() == x.scalar_type()),
                "batch_norm: weight and bias must be (", x.size(1), ",), of the images' type");
  TORCH_CHECK(!residual || (residual->sizes() == x.sizes() &&
                            residual->scalar_type() == x.scalar_type()),
              "batch_norm: the residual must be like the images");
  TORCH_CHECK(!pool || (low == 0 && std::isinf(high)), "batch_norm: pools after ReLU only");
  TORCH_CHECK(!pool || (!residual && x.size(2) % 2 == 0 && x.size(3) % 2 == 0 &&
                        2 * x.size(3) <= kStrip),
              "batch_norm: pools images of even height and width (at most ", kStrip / 2,
              ") without residual");
}

std::tuple<Tensor, Tensor, Tensor> batch_norm(const Tensor& x_, const MaybeTensor& weight_,
                                              const MaybeTensor& bias_,
                                              const MaybeTensor& residual_, double eps, double low,
                                              double high, bool pool) {
  check(x_, weight_, bias_, residual_, low, high, pool);
  const Tensor x = x_.contiguous();
  const MaybeTensor weight = contiguous(weight_), bias = contiguous(bias_);
  const MaybeTensor residual = contiguous(residual_);
  const int64_t step = pool ? 2 : 1;
  Tensor y = at::empty({x.size(0), x.size(1), x.size(2) / step, x.size(3) / step}, x.options());
  Tensor mean = at::empty({x.size(1)}, x.options()), var = at::empty({x.size(1)}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "batch_norm", [&] {
    forward(y.mutable_data_ptr<scalar_t>(), mean.mutable_data_ptr<scalar_t>(),
            var.mutable_data_ptr<scalar_t>(),
            problem<scalar_t>(x, weight, bias, residual, eps, low, high, pool));
  });
  return {y, mean, var};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_backward(
    const Tensor& grad_, const Tensor& x_, const MaybeTensor& weight_, const MaybeTensor& bias_,
    const MaybeTensor& y_, const Tensor& mean, const Tensor& var, double eps, double low,
    double high, bool pool) {
  check(x_, weight_, bias_, y_, low, high, pool);
  const Tensor grad = grad_.contiguous(), x = x_.contiguous();
  const MaybeTensor weight = contiguous(weight_), bias = contiguous(bias_), y = contiguous(y_);
  Tensor x_grad = at::empty(x.sizes(), x.options());
  Tensor weight_grad = at::empty({x.size(1)}, x.options());
  Tensor bias_grad = at::empty({x.size(1)}, x.options());
  Tensor residual_grad = at::empty(y ? x.sizes() : at::IntArrayRef{0}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "batch_norm_backward", [&] {
    backward(x_grad.mutable_data_ptr<scalar_t>(), weight_grad.mutable_data_ptr<scalar_t>(),
             bias_grad.mutable_data_ptr<scalar_t>(),
             residual_grad.numel() ? residual_grad.mutable_data_ptr<scalar_t>() : nullptr,
             grad.const_data_ptr<scalar_t>(), data<scalar_t>(y), mean.const_data_ptr<scalar_t>(),
             var.const_data_ptr<scalar_t>(),
             problem<scalar_t>(x, weight, bias, y, eps, low, high, pool));
  });
  return {x_grad, weight_grad, bias_grad, residual_grad};
}

TORCH_LIBRARY_FRAGMENT(expanders, m) {
  m.def("batch_norm(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, float eps, "
        "float low, float high, bool pool) -> (Tensor y, Tensor mean, Tensor var)");
  m.def("batch_norm_backward(Tensor grad, Tensor x, Tensor? weight, Tensor? bias, Tensor? y, "
        "Tensor mean, Tensor var, float eps, float low, float high, bool pool) -> "
        "(Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(expanders, CPU, m) {
  m.impl("batch_norm", batch_norm);
  m.impl("batch_norm_backward", batch_norm_backward);
}

}  // namespace
}  // namespace expanders
