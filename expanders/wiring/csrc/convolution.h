// Convolution over the edges of a bipartite graph between channels, for the CPU: forward, gradient
// of the input and gradient of the live kernels. Work and memory are proportional to the edges.
//
// Each thread copies some images into zero-padded planes that fit its cache (layout.h, packing.h).
// There a kernel tap is a constant offset in memory, and output, input gradient and weight gradient
// are loops over long rows (kernels.h):
//
//   output[o][p]      = sum over edges (i, o) and taps t of weight[e][t] * input[i][p + offset[t]]
//   input_grad[i][p]  = the same over the reversed edges, with output_grad and -offset[t]
//   weight_grad[e][t] = sum over positions p of output_grad[o][p] * input[i][p + offset[t]]
//
// Positions between images hold values that nobody reads (output), or zeros (packed planes).

#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "graph.h"
#include "kernels.h"
#include "layout.h"
#include "packing.h"
#include "parallel.h"

namespace expanders {

// Pixels of one channel of an image: where computed positions go.
template <typename T>
struct Target {
  T* pixels;
  int64_t image_step, row_step, pixel_step;
};

// A convolution of packed planes: output from input, or input gradient from output gradient.
template <typename T>
struct Gatherer {
  const Layout& at;
  const Taps& taps;
  const T* source;
  int64_t plane;  // distance between channels of the source
  const T* weight;
  const Adjacency& graph;

  // Computes `channel` at the positions rows x columns of `count` images.
  void run(Target<T> target, int64_t channel, Span rows, Span columns, int64_t count,
           Finish<T> finish = {}) const {
    with_block(at, [&]<int R, int V>() {
      const auto kernel = taps.height == 3 ? gather<T, R, V, 3> : gather<T, R, V, 1>;
      const Neighbour* begin = graph.neighbours.data() + graph.start[channel];
      const Neighbour* end = graph.neighbours.data() + graph.start[channel + 1];
      const int64_t width = columns.size() * at.step, padded = at.padded;
      thread_local std::vector<T> strip;
      if (static_cast<int64_t>(strip.size()) < R * padded) strip.resize(R * padded);
      for (int64_t row = rows.begin; row < rows.end; row += R) {
        T* pixels = target.pixels + (row - rows.begin) * target.row_step;
        const bool direct = (at.interleaved || at.images == 1) && target.pixel_step == at.step &&
                            width == padded && row + R <= rows.end;
        T* block = direct ? pixels : strip.data();
        const int64_t pitch = direct ? target.row_step : padded;
        for (int64_t x = 0; x < padded; x += V * Simd<T>::lanes)
          kernel(block + x, pitch, source + row * at.pitch + columns.begin * at.step + x, plane,
                 at.pitch, begin, end, weight, at.taps(), taps.columns, finish);
        if (direct) continue;
        for (int64_t r = 0; r < std::min<int64_t>(R, rows.end - row); ++r)
          copy(pixels + r * target.row_step, target, block + r * padded, columns.size(), count);
      }
    });
  }

 private:
  // Copies a computed row of `count` images.
  void copy(T* pixels, const Target<T>& target, const T* row, int64_t width, int64_t count) const {
    if (at.interleaved)
      for (int64_t i = 0; i < width; ++i)
        std::memcpy(pixels + i * target.pixel_step, row + i * at.step, kVectorBytes);
    else
      for (int64_t n = 0; n < count; ++n)
        copy_strided(pixels + n * target.image_step, target.pixel_step, row + n * at.slot, 1,
                     width);
  }
};

// How many channels of `pixels` are transposed at a time: some 64 rows, in whole squares.
template <typename T>
int64_t transposed_channels(int64_t pixels) {
  const int64_t squares = Simd<T>::lanes / std::gcd<int64_t>(pixels, Simd<T>::lanes);
  return squares * ceil_div(64, pixels * squares);
}

// Calls work(channels) for spans of `unit` channels.
template <typename Work>
void parallel_spans(int64_t channels, int64_t unit, int64_t threads, const Work& work) {
  parallel(ceil_div(channels, unit), threads, [&](int64_t i) {
    work(Span{i * unit, std::min((i + 1) * unit, channels)});
  });
}

// Calls compute(target, c) for all channels c of the images of a group, the first of which is at
// `images`, with rows of `width` pixels. Interleaved images are then transposed into place.
template <typename T, typename Compute>
void write_channels(T* images, const Layout& at, int64_t channels, int64_t pixels, int64_t width,
                    int64_t count, int64_t threads, const Compute& compute) {
  if (!at.interleaved)
    return parallel(channels, threads, [&](int64_t c) {
      compute(Target<T>{images + c * pixels, channels * pixels, width, 1}, c);
    });
  const int64_t unit = transposed_channels<T>(pixels);
  parallel_spans(channels, unit, threads, [&](Span span) {
    const Buffer<T> block(unit * pixels * at.step);
    for (int64_t c = span.begin; c < span.end; ++c)
      compute(Target<T>{block.data() + (c - span.begin) * pixels * at.step, 0, width * at.step,
                        at.step}, c);
    unpack_tokens<T>(images + span.begin * pixels, channels * pixels, block.data(), at.step,
                     span.size() * pixels, count, nullptr);
  });
}

// Packs all channels of the images of a group, the first of which is at `images`. pack(c) does so
// for one channel of images that are not interleaved.
template <typename T, typename Pack>
void pack_channels(T* packed, int64_t plane, const std::vector<int64_t>& positions,
                   const T* images, const Layout& at, int64_t channels, int64_t count,
                   int64_t threads, const Pack& pack) {
  if (!at.interleaved) return parallel(channels, threads, pack);
  const int64_t pixels = static_cast<int64_t>(positions.size());
  parallel_spans(channels, transposed_channels<T>(pixels), threads, [&](Span span) {
    pack_interleaved(packed + span.begin * plane, plane, positions, images + span.begin * pixels,
                     channels * pixels, span.size(), count);
  });
}

// The batch is cut into one chunk per thread. If there are too few groups of images for that, it is
// one chunk, whose channels are shared out among the threads.
int64_t count_chunks(const Layout& at, int64_t batch, int64_t threads) {
  return ceil_div(batch, at.images) >= threads ? threads : 1;
}

// Calls work(first image, number of images) for the groups of one chunk.
template <typename Work>
void for_groups(const Layout& at, int64_t batch, int64_t chunk, int64_t chunks, const Work& work) {
  const int64_t groups = ceil_div(batch, at.images);
  for (int64_t g = groups * chunk / chunks; g < groups * (chunk + 1) / chunks; ++g)
    work(g * at.images, std::min(at.images, batch - g * at.images));
}

// Packs a group of images.
template <typename T>
void pack_inputs(T* packed, const T* x, const Layout& at, int64_t channels, int64_t first,
                 int64_t count, int64_t threads) {
  const T* images = x + first * channels * at.h.size * at.w.size;
  const int64_t plane = at.input_channel();
  pack_channels(packed, plane, at.input_positions, images, at, channels, count, threads,
                [&](int64_t c) { pack_input(packed + c * plane, images, at, channels, c, count); });
}

// Packs the gradient of the output of a group of images.
template <typename T>
void pack_grads(T* packed, const T* y_grad, const Layout& at, int64_t channels, int64_t first,
                int64_t count, int64_t threads) {
  const T* images = y_grad + first * channels * at.h.out() * at.w.out();
  const int64_t plane = at.grad_plane;
  pack_channels(packed, plane, at.grad_positions, images, at, channels, count, threads,
                [&](int64_t c) { pack_grad(packed + c * plane, images, at, channels, c, count); });
}

// `bias` may be null.
template <typename T>
void conv2d_forward(T* y, const T* x, const T* weight, const T* bias, bool relu,
                    const Adjacency& graph, const Layout& at, int64_t batch, int64_t inputs,
                    int64_t outputs, int64_t max_threads) {
  const Taps taps(at, 0, false);
  const int64_t plane = at.input_channel(), pixels = at.h.out() * at.w.out();
  const int64_t work = graph.neighbours.size() * at.taps() * pixels * batch;
  const int64_t threads = useful_threads(work, max_threads);
  const int64_t chunks = count_chunks(at, batch, threads);
  parallel(chunks, threads, [&](int64_t chunk) {
    const Buffer<T> packed(inputs * plane);
    packed.clear();
    const Gatherer<T> gatherer{at, taps, packed.data(), plane, weight, graph};
    for_groups(at, batch, chunk, chunks, [&](int64_t first, int64_t count) {
      pack_inputs(packed.data(), x, at, inputs, first, count, threads);
      write_channels(y + first * outputs * pixels, at, outputs, pixels, at.w.out(), count, threads,
                     [&](Target<T> target, int64_t c) {
                       Finish<T> finish;
                       if (bias) finish.shift = bias[c];
                       if (relu) finish.floor = 0;
                       gatherer.run(target, c, {0, at.h.out()}, {0, at.w.out()}, count, finish);
                     });
    });
  });
}

// Adds the weight gradient of an edge, from one group of packed images, to a vector of partial sums
// for each of its taps.
template <typename T>
void correlate_edge(T* sums, const T* grad, const T* input, const Layout& at,
                    const std::vector<int64_t>& offsets) {
  constexpr int lanes = Simd<T>::lanes;
  with_block(at, [&]<int BlockRows, int V>() {
    // Nine sums and a block of eight rows would not fit sixteen registers.
    constexpr int R = kVectorBytes < 64 ? std::min(BlockRows, 4) : BlockRows;
    const int64_t rows = at.h.out(), vectors = at.row_vectors;
    if (at.h.kernel == 3 && at.w.kernel == 3 &&
        at.phases.size() * at.h.dilation * at.w.dilation == 1) {
      const auto kernel =
          at.interleaved ? correlate<T, R, V, 3, 3, lanes> : correlate<T, R, V, 3, 3, 1>;
      return kernel(sums, grad, input, at.pitch, rows, vectors);
    }
    for (std::size_t t = 0; t < offsets.size(); ++t)
      correlate<T, R, V, 1, 1, 1>(sums + t * lanes, grad, input + offsets[t], at.pitch, rows,
                                  vectors);
  });
}

// result[i] += the sum of the lanes of the vector sums[i * lanes ...].
template <typename T>
void add_lanes(T* result, const T* sums, int64_t count) {
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t i = 0; i < count; ++i) {
    const auto sum = Simd<T>::load(sums + i * lanes);
    Simd<T>::template add_sums<1>(result + i, &sum);
  }
}

// Partial sums of all weights are kept until the end of a chunk while they take no more than this:
// adding their lanes for every group of images would take longer than all else on small planes.
constexpr int64_t kKeptSums = 1 << 20;  // bytes

template <typename T>
void conv2d_backward(T* x_grad, T* weight_grad, const T* y_grad, const T* x, const T* weight,
                     const int64_t* edges, int64_t num_edges, const Layout& at, int64_t batch,
                     int64_t inputs, int64_t outputs, int64_t max_threads) {
  const Adjacency graph(edges, edges + num_edges, num_edges, inputs);
  const int64_t plane = at.input_channel(), pixels = at.h.size * at.w.size;
  const int64_t weights = num_edges * at.taps();
  const int64_t work = 2 * weights * at.h.out() * at.w.out() * batch;
  const int64_t threads = useful_threads(work, max_threads);
  const int64_t chunks = count_chunks(at, batch, threads);
  std::vector<Taps> taps;  // of each phase
  for (std::size_t p = 0; p < at.phases.size(); ++p) taps.emplace_back(at, p, true);
  std::vector<int64_t> offsets;  // of each tap
  for (int64_t y = 0; y < at.h.kernel; ++y)
    for (int64_t x = 0; x < at.w.kernel; ++x) offsets.push_back(at.tap_offset(y, x));
  std::vector<T> partial(weight_grad ? chunks * weights : 0);  // weight gradients of each chunk
  const int64_t sums_step = offsets.size() * Simd<T>::lanes;   // of an edge
  const bool keep = num_edges * sums_step * static_cast<int64_t>(sizeof(T)) <= kKeptSums;

  parallel(chunks, threads, [&](int64_t chunk) {
    const Buffer<T> packed_grad(outputs * at.grad_plane);
    const Buffer<T> packed(weight_grad ? inputs * plane : 0);
    const Buffer<T> sums(weight_grad && keep ? num_edges * sums_step : 0);
    T* result = partial.data() + chunk * weights;
    packed_grad.clear();
    packed.clear();
    sums.clear();
    for_groups(at, batch, chunk, chunks, [&](int64_t first, int64_t count) {
      if (count < at.images) packed_grad.clear();
      pack_grads(packed_grad.data(), y_grad, at, outputs, first, count, threads);
      const T* grad = packed_grad.data() + at.grad_origin;
      if (x_grad)
        write_channels(
            x_grad + first * inputs * pixels, at, inputs, pixels, at.w.size, count, threads,
            [&](Target<T> to, int64_t c) {
              for (std::size_t p = 0; p < at.phases.size(); ++p) {
                const auto& [rows, columns, corner, _] = at.phases[p];
                const Gatherer<T> gatherer{at, taps[p], grad, at.grad_plane, weight, graph};
                gatherer.run({to.pixels + corner * to.pixel_step, to.image_step,
                              to.row_step * at.h.stride, to.pixel_step * at.w.stride},
                             c, rows, columns, count);
              }
            });
      if (weight_grad) {
        pack_inputs(packed.data(), x, at, inputs, first, count, threads);
        parallel(num_edges, threads, [&](int64_t e) {
          const T* of_output = grad + edges[num_edges + e] * at.grad_plane;
          const T* of_input = packed.data() + edges[e] * plane;
          if (keep)
            return correlate_edge(sums.data() + e * sums_step, of_output, of_input, at, offsets);
          thread_local std::vector<T> of_edge;
          of_edge.assign(sums_step, T{0});
          correlate_edge(of_edge.data(), of_output, of_input, at, offsets);
          add_lanes(result + e * offsets.size(), of_edge.data(), offsets.size());
        });
      }
    });
    if (weight_grad && keep) add_lanes(result, sums.data(), weights);
  });
  for (int64_t chunk = 0; chunk < (weight_grad ? chunks : 0); ++chunk)
    for (int64_t i = 0; i < weights; ++i) weight_grad[i] += partial[chunk * weights + i];
}

}  // namespace expanders
