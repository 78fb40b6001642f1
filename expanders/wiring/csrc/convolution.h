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
      const int64_t width = columns.size(), padded = at.padded;
      thread_local std::vector<T> strip;
      if (static_cast<int64_t>(strip.size()) < R * padded) strip.resize(R * padded);
      for (int64_t row = rows.begin; row < rows.end; row += R) {
        T* pixels = target.pixels + (row - rows.begin) * target.row_step;
        const bool direct =
            at.images == 1 && target.pixel_step == 1 && width == padded && row + R <= rows.end;
        T* block = direct ? pixels : strip.data();
        const int64_t pitch = direct ? target.row_step : padded;
        for (int64_t x = 0; x < padded; x += V * Simd<T>::lanes)
          kernel(block + x, pitch, source + row * at.pitch + columns.begin + x, plane, at.pitch,
                 begin, end, weight, at.taps(), taps.columns, finish);
        if (direct) continue;
        for (int64_t r = 0; r < std::min<int64_t>(R, rows.end - row); ++r)
          for (int64_t n = 0; n < count; ++n)
            copy_strided(pixels + r * target.row_step + n * target.image_step, target.pixel_step,
                         block + r * padded + n * at.slot, 1, width);
      }
    });
  }
};

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

// `bias` may be null.
template <typename T>
void conv2d_forward(T* y, const T* x, const T* weight, const T* bias, bool relu,
                    const Adjacency& graph, const Layout& at,
             int64_t batch, int64_t inputs, int64_t outputs,
                    int64_t max_threads) {
  const Taps taps(at, 0, false);
  const int64_t plane = at.input_channel(), pixels = at.h.out() * at.w.out();
  const int64_t threads = useful_threads(graph.neighbours.size() * at.taps() * pixels * batch, max_threads);
  const int64_t chunks = count_chunks(at, batch, threads);
  parallel(chunks, threads, [&](int64_t chunk) {
    std::vector<T> packed(inputs * plane);
    const Gatherer<T> gatherer{at, taps, packed.data(), plane, weight, graph};
    for_groups(at, batch, chunk, chunks, [&](int64_t first, int64_t count) {
      parallel(inputs, threads, [&](int64_t c) {
        pack_input(packed.data() + c * plane, x, at, inputs, c, first, count);
      });
      parallel(outputs, threads, [&](int64_t c) {
        Finish<T> finish;
        if (bias) finish.shift = bias[c];
        if (relu) finish.floor = 0;
        const Target<T> target{y + (first * outputs + c) * pixels, outputs * pixels, at.w.out(), 1};
        gatherer.run(target, c, {0, at.h.out()}, {0, at.w.out()}, count, finish);
      });
    });
  });
}

// Adds the weight gradient of edge e, from one group of packed images, to result[e * taps ...].
template <typename T>
void correlate_edge(T* result, const T* grad, const T* input, const Layout& at,
                    const std::vector<int64_t>& offsets) {
  with_block(at, [&]<int R, int V>() {
    const int64_t rows = at.h.out(), vectors = at.row_vectors;
    if (at.h.kernel == 3 && at.w.kernel == 3 &&
        at.phases.size() * at.h.dilation * at.w.dilation == 1)
      return correlate<T, R, V, 3, 3>(result, grad, input, at.pitch, rows, vectors);
    for (std::size_t t = 0; t < offsets.size(); ++t)
      correlate<T, R, V, 1, 1>(result + t, grad, input + offsets[t], at.pitch, rows, vectors);
  });
}

template <typename T>
void conv2d_backward(T* x_grad, T* weight_grad, const T* y_grad, const T* x, const T* weight,
              const int64_t* edges, int64_t num_edges, const Layout& at, int64_t batch,
              int64_t inputs, int64_t outputs, int64_t max_threads) {
  const Adjacency graph(edges, edges + num_edges, num_edges, inputs);
  const int64_t plane = at.input_channel(), pixels = at.h.size * at.w.size;
  const int64_t weights = num_edges * at.taps();
  const int64_t threads = useful_threads(2 * weights * at.h.out() * at.w.out() * batch, max_threads);
  const int64_t chunks = count_chunks(at, batch, threads);
  std::vector<Taps> taps;  // of each phase
  for (std::size_t p = 0; p < at.phases.size(); ++p) taps.emplace_back(at, p, true);
  std::vector<int64_t> offsets;  // of each tap
  for (int64_t y = 0; y < at.h.kernel; ++y)
    for (int64_t x = 0; x < at.w.kernel; ++x) offsets.push_back(at.tap_offset(y, x));
  std::vector<T> partial(weight_grad ? chunks * weights : 0);  // weight gradients of each chunk

  parallel(chunks, threads, [&](int64_t chunk) {
    std::vector<T> packed_grad(outputs * at.grad_plane), packed(weight_grad ? inputs * plane : 0);
    for_groups(at, batch, chunk, chunks, [&](int64_t first, int64_t count) {
      if (count < at.images) std::fill(packed_grad.begin(), packed_grad.end(), T{0});
      parallel(outputs, threads, [&](int64_t c) {
        pack_grad(packed_grad.data() + c * at.grad_plane, y_grad, at, outputs, c, first, count);
      });
      const T* grad = packed_grad.data() + at.grad_origin;
      if (x_grad) {
        parallel(inputs, threads, [&](int64_t c) {
          T* image = x_grad + (first * inputs + c) * pixels;
          for (std::size_t p = 0; p < at.phases.size(); ++p) {
            const auto& [rows, columns, corner, _] = at.phases[p];
            const Gatherer<T> gatherer{at, taps[p], grad, at.grad_plane, weight, graph};
            gatherer.run({image + corner, inputs * pixels, at.h.stride * at.w.size, at.w.stride}, c,
                         rows, columns, count);
          }
        });
      }
      if (weight_grad) {
        parallel(inputs, threads, [&](int64_t c) {
          pack_input(packed.data() + c * plane, x, at, inputs, c, first, count);
        });
        parallel(num_edges, threads, [&](int64_t e) {
          correlate_edge(partial.data() + chunk * weights + e * offsets.size(),
                         grad + edges[num_edges + e] * at.grad_plane,
                         packed.data() + edges[e] * plane, at, offsets);
        });
      }
    });
  });
  for (int64_t chunk = 0; chunk < (weight_grad ? chunks : 0); ++chunk)
    for (int64_t i = 0; i < weights; ++i) weight_grad[i] += partial[chunk * weights + i];
}

}  // namespace expanders
