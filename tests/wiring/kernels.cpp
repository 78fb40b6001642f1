// Runs the kernels of expanders/wiring/csrc without PyTorch, on the processor that it is compiled
// for. Reads numbers from the standard input, and prints outputs and gradients, one a line.
//
//   kernels conv2d BATCH INPUTS OUTPUTS EDGES  HEIGHT KERNEL STRIDE BEFORE AFTER DILATION
//                                              WIDTH  KERNEL STRIDE BEFORE AFTER DILATION
//   kernels linear TOKENS INPUTS OUTPUTS EDGES
//
// Read are the edges (inputs, then outputs), then x, weight, bias and the gradient of the output.
// Printed are y (of a convolution, after a ReLU), and the gradients of x, weight and, of a linear
// layer, bias.

#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "convolution.h"
#include "linear.h"

using namespace expanders;

namespace {

template <typename T>
std::vector<T> read(int64_t count) {
  std::vector<T> values(count);
  for (T& value : values) std::cin >> value;
  return values;
}

void print(const std::vector<float>& values) {
  for (float value : values) std::cout << value << '\n';
}

}  // namespace

int main(int, char** arguments) {
  std::cout.precision(9);
  const bool linear = arguments[1] == std::string("linear");
  const auto number = [&](int i) { return std::atoll(arguments[i]); };
  const auto axis = [&](int i) {
    return Axis{number(i), number(i + 1), number(i + 2), number(i + 3), number(i + 4), number(i + 5)};
  };
  const int64_t batch = number(2), inputs = number(3), outputs = number(4), num_edges = number(5);
  const Axis one{1, 1, 1, 0, 0, 1}, h = linear ? one : axis(6), w = linear ? one : axis(12);
  const int64_t taps = h.kernel * w.kernel;
  const auto edges = read<int64_t>(2 * num_edges);
  const auto x = read<float>(batch * inputs * h.size * w.size);
  const auto weight = read<float>(num_edges * taps);
  const auto bias = read<float>(outputs);
  const auto grad = read<float>(batch * outputs * h.out() * w.out());
  std::vector<float> y(grad.size()), x_grad(x.size()), weight_grad(weight.size()), bias_grad;
  const Adjacency graph(edges.data() + num_edges, edges.data(), num_edges, outputs);
  constexpr int64_t threads = 2;
  if (linear) {
    bias_grad.resize(outputs);
    linear_forward(y.data(), x.data(), weight.data(), bias.data(), graph, batch, inputs, outputs,
                   threads);
    linear_backward(x_grad.data(), weight_grad.data(), bias_grad.data(), grad.data(), x.data(),
                    weight.data(), edges.data(), num_edges, batch, inputs, outputs, threads);
  } else {
    const Layout layout(h, w, Simd<float>::lanes, batch);
    conv2d_forward(y.data(), x.data(), weight.data(), bias.data(), true, graph, layout, batch,
                   inputs, outputs, threads);
    conv2d_backward(x_grad.data(), weight_grad.data(), grad.data(), x.data(), weight.data(),
                    edges.data(), num_edges, layout, batch, inputs, outputs, threads);
  }
  for (const auto& values : {y, x_grad, weight_grad, bias_grad}) print(values);
}
