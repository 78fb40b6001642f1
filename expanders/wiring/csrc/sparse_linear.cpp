// The operators sparse_linear and sparse_linear_backward, see linear.h.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "checks.h"
#include "linear.h"

namespace expanders {
namespace {

using at::Tensor;

Tensor sparse_linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                     const Tensor& edges, int64_t outputs) {
  const int64_t tokens = x.size(0), inputs = x.size(1), num_edges = weight.size(0);
  const Tensor xc = x.contiguous(), wc = weight.contiguous();
  const Tensor bc = checked_bias(bias, outputs);
  const Tensor ec = checked_edges(edges, num_edges, inputs, outputs);
  const int64_t* e = ec.const_data_ptr<int64_t>();
  const Adjacency graph(e + num_edges, e, num_edges, outputs);
  Tensor y = at::empty({tokens, outputs}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "sparse_linear", [&] {
    linear_forward(y.mutable_data_ptr<scalar_t>(), xc.const_data_ptr<scalar_t>(),
                   wc.const_data_ptr<scalar_t>(),
                   bias ? bc.const_data_ptr<scalar_t>() : nullptr, graph, tokens, inputs, outputs,
                   at::get_num_threads());
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> sparse_linear_backward(const Tensor& grad, const Tensor& x,
                                                          const Tensor& weight,
                                                          const Tensor& edges, bool need_x,
                                                          bool need_weight, bool need_bias) {
  const int64_t tokens = x.size(0), inputs = x.size(1), outputs = grad.size(1);
  const int64_t num_edges = weight.size(0);
  const Tensor gc = grad.contiguous(), xc = x.contiguous(), wc = weight.contiguous();
  const Tensor ec = checked_edges(edges, num_edges, inputs, outputs);
  Tensor x_grad = at::empty(need_x ? x.sizes() : at::IntArrayRef{0}, x.options());
  Tensor weight_grad = at::zeros({need_weight ? num_edges : 0}, x.options());
  Tensor bias_grad = at::zeros({need_bias ? outputs : 0}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "sparse_linear_backward", [&] {
    linear_backward(need_x ? x_grad.mutable_data_ptr<scalar_t>() : nullptr,
                    need_weight ? weight_grad.mutable_data_ptr<scalar_t>() : nullptr,
                    need_bias ? bias_grad.mutable_data_ptr<scalar_t>() : nullptr,
                    gc.const_data_ptr<scalar_t>(), xc.const_data_ptr<scalar_t>(),
                    wc.const_data_ptr<scalar_t>(), ec.const_data_ptr<int64_t>(), num_edges, tokens,
                    inputs, outputs, at::get_num_threads());
  });
  return {x_grad, weight_grad, bias_grad};
}

TORCH_LIBRARY_FRAGMENT(expanders, m) {
  m.def("sparse_linear(Tensor x, Tensor weight, Tensor? bias, Tensor edges, int outputs) "
        "-> Tensor");
  m.def("sparse_linear_backward(Tensor grad, Tensor x, Tensor weight, Tensor edges, bool need_x, "
        "bool need_weight, bool need_bias) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(expanders, CPU, m) {
  m.impl("sparse_linear", sparse_linear);
  m.impl("sparse_linear_backward", sparse_linear_backward);
}

}  // namespace
}  // namespace expanders
