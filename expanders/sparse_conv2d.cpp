// Convolution over the edges of a bipartite graph between channels, for the CPU: forward, gradient
// of the input and gradient of the live kernels. Work and memory are proportional to the edges.
//
// Packing. Each thread copies some images into zero-padded planes that fit its cache. Several small
// images lie side by side in one plane, so that rows are as long as vectors. For a stride s, a
// plane is split into s*s phases (every s-th row and column). After that a kernel tap is a constant
// offset in memory, and output, input gradient and weight gradient are loops over long rows:
//
//   output[o][p]      = sum over edges (i, o) and taps t of weight[e][t] * input[i][p + offset[t]]
//   input_grad[i][p]  = the same over the reversed edges, with output_grad and -offset[t]
//   weight_grad[e][t] = sum over positions p of output_grad[o][p] * input[i][p + offset[t]]
//
// Blocks of up to 8 vectors stay in registers while all edges and taps are added to them. Positions
// between images hold values that nobody reads (output), or zeros (packed planes).

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <omp.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

namespace {

using at::Tensor;
using std::int64_t;

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// Without it, GCC loads a vector again for each use.
#if defined(__x86_64__)
#define KEEP_IN_REGISTER(v) __asm__("" : "+v"(v))
#else
#define KEEP_IN_REGISTER(v)
#endif

template <typename T>
struct Simd {
  static constexpr int lanes = kVectorBytes / sizeof(T);
  typedef T Vector __attribute__((vector_size(kVectorBytes)));

  static Vector load(const T* source) {
    Vector v;
    std::memcpy(&v, source, sizeof v);
    KEEP_IN_REGISTER(v);
    return v;
  }
  static void store(T* target, Vector v) { std::memcpy(target, &v, sizeof v); }

  // Sums of neighbouring lanes: of a in the lower half, of b in the upper.
  template <std::size_t... I>
  static Vector fold(Vector a, Vector b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, 2 * I...) + __builtin_shufflevector(a, b, 2 * I + 1 ...);
  }

  // result[i] += sum of the lanes of v[i].
  template <int N>
  static void add_sums(T* result, const Vector* v) {
    if constexpr (N > lanes) {
      add_sums<lanes>(result, v);
      add_sums<N - lanes>(result + lanes, v + lanes);
    } else {
      Vector level[N + 1] = {};
      std::copy(v, v + N, level);
#pragma GCC unroll 8
      for (int done = 1, width = N; done < lanes; done *= 2, width = (width + 1) / 2) {
        level[width] = Vector{};
#pragma GCC unroll 16
        for (int i = 0; i < width; i += 2)
          level[i / 2] = fold(level[i], level[i + 1], std::make_index_sequence<lanes>{});
      }
      T sums[lanes];
      store(sums, level[0]);
      for (int i = 0; i < N; ++i) result[i] += sums[i];
    }
  }
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Runs work(i) for i in [0, count) on so many threads; inside of itself, serially.
template <typename Work>
void parallel(int64_t count, int64_t threads, const Work& work) {
  const int team = static_cast<int>(std::min(count, threads));
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1 && !omp_in_parallel())
  for (int64_t i = 0; i < count; ++i) work(i);
}

// PyTorch's number of threads, but none that would get less than some 50 microseconds of work.
int64_t useful_threads(int64_t multiply_adds) {
  constexpr int64_t least = 1 << 20;
  return std::clamp<int64_t>(multiply_adds / least, 1, at::get_num_threads());
}

// ---------------------------------------------------------------------------- geometry

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

// How images are packed: `images` side by side, `slot` positions each, rows `pitch` positions apart.
// Computed are `padded` positions of a row, in blocks of block_rows rows and block_vectors vectors.
struct Layout {
  Axis h, w;
  int lanes, block_rows, block_vectors;
  int64_t images, slot, row_vectors, padded, pitch, input_plane, grad_plane, grad_origin;
  std::vector<Phase> phases;

  Layout(Axis h, Axis w, int lanes, int64_t batch) : h(h), w(w), lanes(lanes) {
    const int64_t gap =
        std::max<int64_t>({0, w.reach() - w.first(w.stride - 1), w.last(0) - w.out()});
    slot = std::max(ceil_div(w.size + std::max(w.before, w.after), w.stride), w.out() + gap);
    choose_images_and_block(batch);
    const int64_t rows = std::max(round_up(h.out(), block_rows),
                                  h.first(h.stride - 1) + round_up(h.last(0), block_rows));
    padded = round_up(row_vectors, block_vectors) * lanes;
    pitch = std::max(images * slot, padded);
    const int64_t slack = w.last(0) + w.reach() + padded;
    input_plane = (rows + h.reach()) * pitch + slack;
    grad_origin = h.reach() * pitch + w.reach();
    grad_plane = (rows + h.reach()) * pitch + grad_origin + slack;
    for (int64_t py = 0; py < h.stride; ++py)
      for (int64_t px = 0; px < w.stride; ++px) {
        const Span rows{h.first(py), h.last(py)}, columns{w.first(px), w.last(px)};
        phases.push_back({rows, columns,
                          (rows.begin * h.stride + py - h.before) * w.size +
                              columns.begin * w.stride + px - w.before,
                          h.has_taps(py) && w.has_taps(px)});
      }
  }

  int64_t taps() const { return h.kernel * w.kernel; }
  int64_t input_channel() const { return phases.size() * input_plane; }
  int64_t tap_phase(int64_t y, int64_t x) const { return h.phase(y) * w.stride + w.phase(x); }
  int64_t tap_shift(int64_t y, int64_t x) const { return h.shift(y) * pitch + w.shift(x); }
  int64_t tap_offset(int64_t y, int64_t x) const {
    return tap_phase(y, x) * input_plane + tap_shift(y, x);
  }

 private:
  // The fewest images and the block that together waste the least, in rows of at most 8 vectors.
  void choose_images_and_block(int64_t batch) {
    const int64_t width = std::max(w.out(), w.last(0) - w.first(w.stride - 1));
    int64_t least = 0;  // vectors computed for `images` images
    images = 0;
    for (int64_t n = 1; n <= std::max<int64_t>(batch, 1); ++n) {
      const int64_t vectors = ceil_div((n - 1) * slot + width, lanes);
      if (n > 1 && vectors > 8) break;
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

// ---------------------------------------------------------------------------- graph

struct Neighbour {
  int64_t channel, edge;
};

// For every channel of one side, its neighbours on the other.
struct Adjacency {
  std::vector<int64_t> start;
  std::vector<Neighbour> neighbours;

  Adjacency(const int64_t* own, const int64_t* other, int64_t edges, int64_t size, int64_t others)
      : start(size + 1), neighbours(edges) {
    for (int64_t e = 0; e < edges; ++e) {
      TORCH_CHECK_INDEX(0 <= own[e] && own[e] < size && 0 <= other[e] && other[e] < others,
                        "edges: channel out of range");
      ++start[own[e] + 1];
    }
    for (int64_t c = 0; c < size; ++c) start[c + 1] += start[c];
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t e = 0; e < edges; ++e) neighbours[next[own[e]]++] = {other[e], e};
  }
};

// ---------------------------------------------------------------------------- kernels

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

// target = sum over neighbours and taps, for one block of positions.
template <typename T, int R, int V, int K>
void gather(T* target, int64_t target_pitch, const T* source, int64_t plane, int64_t pitch,
            const Neighbour* begin, const Neighbour* end, const T* weight, int64_t taps,
            const std::vector<Column>& columns) {
  typename Simd<T>::Vector sum[R][V] = {};
  for (const Neighbour* n = begin; n != end; ++n)
    for (const Column& c : columns)
      add_column<T, R, V, K>(sum, source + n->channel * plane + c.offset, pitch,
                             weight + n->edge * taps + c.weight, c.step);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v)
      Simd<T>::store(target + r * target_pitch + v * Simd<T>::lanes, sum[r][v]);
}

// result[t] += grad . input shifted by tap t, for the K x M taps whose rows are `pitch` apart and
// whose columns are neighbours in memory.
template <typename T, int R, int V, int K, int M>
void correlate(T* result, const T* grad, const T* input, int64_t pitch, int64_t rows,
               int64_t row_vectors) {
  constexpr int copies = K * M == 1 ? R * V : 1;  // independent sums, where there is but one tap
  typename Simd<T>::Vector sum[copies][K * M] = {};
  for (int64_t row = 0; row < rows; row += R)
    for (int64_t vector = 0; vector < row_vectors; vector += V) {
      const int64_t at = row * pitch + vector * Simd<T>::lanes;
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) {
        typename Simd<T>::Vector g[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
          g[r] = Simd<T>::load(grad + at + r * pitch + v * Simd<T>::lanes);
#pragma GCC unroll 16
        for (int i = 0; i < R + K - 1; ++i)
#pragma GCC unroll 16
          for (int m = 0; m < M; ++m) {
            const auto x = Simd<T>::load(input + at + i * pitch + v * Simd<T>::lanes + m);
#pragma GCC unroll 16
            for (int k = 0; k < K; ++k)
              if (i - k >= 0 && i - k < R)
                sum[copies == 1 ? 0 : i * V + v][k * M + m] += g[i - k] * x;
          }
      }
    }
#pragma GCC unroll 16
  for (int c = 1; c < copies; ++c) sum[0][0] += sum[c][0];
  Simd<T>::template add_sums<K * M>(result, sum[0]);
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

// ---------------------------------------------------------------------------- packing

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

// Copies channel `c` of images [first, first + count) into its padded planes, phase by phase.
template <typename T>
void pack_input(T* packed, const T* x, const Layout& at, int64_t channels, int64_t c, int64_t first,
                int64_t count) {
  const int64_t image_step = channels * at.h.size * at.w.size;
  const T* image = x + first * image_step + c * at.h.size * at.w.size;
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
void pack_grad(T* packed, const T* grad, const Layout& at, int64_t channels, int64_t c,
               int64_t first, int64_t count) {
  const int64_t height = at.h.out(), width = at.w.out();
  for (int64_t row = 0; row < height; ++row)
    for (int64_t n = 0; n < count; ++n)
      copy_row(packed + at.grad_origin + row * at.pitch + n * at.slot,
               grad + (((first + n) * channels + c) * height + row) * width, width);
}

// ---------------------------------------------------------------------------- whole layers

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
  void run(Target<T> target, int64_t channel, Span rows, Span columns, int64_t count) const {
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
                 begin, end, weight, at.taps(), taps.columns);
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

template <typename T>
void forward(T* y, const T* x, const T* weight, const Adjacency& graph, const Layout& at,
             int64_t batch, int64_t inputs, int64_t outputs) {
  const Taps taps(at, 0, false);
  const int64_t plane = at.input_channel(), pixels = at.h.out() * at.w.out();
  const int64_t threads = useful_threads(graph.neighbours.size() * at.taps() * pixels * batch);
  const int64_t chunks = count_chunks(at, batch, threads);
  parallel(chunks, threads, [&](int64_t chunk) {
    std::vector<T> packed(inputs * plane);
    const Gatherer<T> gatherer{at, taps, packed.data(), plane, weight, graph};
    for_groups(at, batch, chunk, chunks, [&](int64_t first, int64_t count) {
      parallel(inputs, threads, [&](int64_t c) {
        pack_input(packed.data() + c * plane, x, at, inputs, c, first, count);
      });
      parallel(outputs, threads, [&](int64_t c) {
        const Target<T> target{y + (first * outputs + c) * pixels, outputs * pixels, at.w.out(), 1};
        gatherer.run(target, c, {0, at.h.out()}, {0, at.w.out()}, count);
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
void backward(T* x_grad, T* weight_grad, const T* y_grad, const T* x, const T* weight,
              const int64_t* edges, int64_t num_edges, const Layout& at, int64_t batch,
              int64_t inputs, int64_t outputs) {
  const Adjacency graph(edges, edges + num_edges, num_edges, inputs, outputs);
  const int64_t plane = at.input_channel(), pixels = at.h.size * at.w.size;
  const int64_t weights = num_edges * at.taps();
  const int64_t threads = useful_threads(2 * weights * at.h.out() * at.w.out() * batch);
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

// ---------------------------------------------------------------------------- operators

// Numbers of a convolution, all from the operators' arguments.
struct Problem {
  Axis h, w;
  int64_t batch, inputs, num_edges;
  Layout layout;

  Problem(const Tensor& x, const Tensor& weight, at::IntArrayRef stride, at::IntArrayRef margins,
          at::IntArrayRef dilation)
      : h{x.size(2), weight.size(1), stride[0], margins[2], margins[3], dilation[0]},
        w{x.size(3), weight.size(2), stride[1], margins[0], margins[1], dilation[1]},
        batch(x.size(0)),
        inputs(x.size(1)),
        num_edges(weight.size(0)),
        layout(make_layout(kVectorBytes / x.element_size())) {}

 private:
  // A 1x1 convolution sees an image as one long row.
  Layout make_layout(int lanes) const {
    TORCH_CHECK(h.size + h.before + h.after > (h.kernel - 1) * h.dilation &&
                    w.size + w.before + w.after > (w.kernel - 1) * w.dilation,
                "sparse_conv2d: the kernel is larger than the padded image");
    if (h.kernel * w.kernel * h.stride * w.stride > 1 || h.before + h.after + w.before + w.after)
      return Layout(h, w, lanes, batch);
    Axis row = h, column = w;
    row.size = 1;
    column.size = h.size * w.size;
    return Layout(row, column, lanes, batch);
  }
};

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& edges, int64_t outputs,
              at::IntArrayRef stride, at::IntArrayRef margins, at::IntArrayRef dilation) {
  const Problem it(x, weight, stride, margins, dilation);
  const Tensor xc = x.contiguous(), wc = weight.contiguous(), ec = edges.contiguous();
  Tensor y = at::empty({it.batch, outputs, it.h.out(), it.w.out()}, x.options());
  const int64_t* e = ec.const_data_ptr<int64_t>();
  const Adjacency graph(e + it.num_edges, e, it.num_edges, outputs, it.inputs);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "sparse_conv2d", [&] {
    forward(y.mutable_data_ptr<scalar_t>(), xc.const_data_ptr<scalar_t>(),
            wc.const_data_ptr<scalar_t>(), graph, it.layout, it.batch, it.inputs, outputs);
  });
  return y;
}

std::tuple<Tensor, Tensor> conv2d_backward(const Tensor& grad, const Tensor& x,
                                           const Tensor& weight, const Tensor& edges,
                                           at::IntArrayRef stride, at::IntArrayRef margins,
                                           at::IntArrayRef dilation, bool need_x,
                                           bool need_weight) {
  const Problem it(x, weight, stride, margins, dilation);
  const Tensor gc = grad.contiguous(), xc = x.contiguous(), wc = weight.contiguous();
  const Tensor ec = edges.contiguous();
  Tensor x_grad = at::empty(need_x ? x.sizes() : at::IntArrayRef{0}, x.options());
  Tensor weight_grad = at::zeros(need_weight ? weight.sizes() : at::IntArrayRef{0}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "sparse_conv2d_backward", [&] {
    backward(need_x ? x_grad.mutable_data_ptr<scalar_t>() : nullptr,
             need_weight ? weight_grad.mutable_data_ptr<scalar_t>() : nullptr,
             gc.const_data_ptr<scalar_t>(), xc.const_data_ptr<scalar_t>(),
             wc.const_data_ptr<scalar_t>(), ec.const_data_ptr<int64_t>(), it.num_edges, it.layout,
             it.batch, it.inputs, grad.size(1));
  });
  return {x_grad, weight_grad};
}

TORCH_LIBRARY(expanders, m) {
  m.def("sparse_conv2d(Tensor x, Tensor weight, Tensor edges, int outputs, int[2] stride, "
        "int[4] margins, int[2] dilation) -> Tensor");
  m.def("sparse_conv2d_backward(Tensor grad, Tensor x, Tensor weight, Tensor edges, int[2] stride, "
        "int[4] margins, int[2] dilation, bool need_x, bool need_weight) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(expanders, CPU, m) {
  m.impl("sparse_conv2d", conv2d);
  m.impl("sparse_conv2d_backward", conv2d_backward);
}

}  // namespace
