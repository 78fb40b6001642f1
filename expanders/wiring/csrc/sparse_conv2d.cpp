// The operators sparse_conv2d and sparse_conv2d_backward, see convolution.h.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "checks.h"
#include "convolution.h"

namespace expanders {
namespace {

using at::Tensor;

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
    TORCH_CHECK(std::min({h.stride, w.stride, h.dilation, w.dilation}) > 0,
                "sparse_conv2d: stride and dilation must be above 0");
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

Tensor sparse_conv2d(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                     const Tensor& edges, int64_t outputs, at::IntArrayRef stride,
                     at::IntArrayRef margins, at::IntArrayRef dilation, bool relu) {
  const Problem it(x, weight, stride, margins, dilation);
  const Tensor xc = x.contiguous(), wc = weight.contiguous();
  const Tensor ec = checked_edges(edges, it.num_edges, it.inputs, outputs);
  const Tensor bc = checked_bias(bias, outputs);
  Tensor y = at::empty({it.batch, outputs, it.h.out(), it.w.out()}, x.options());
  const int64_t* e = ec.const_data_ptr<int64_t>();
  const Adjacency graph(e + it.num_edges, e, it.num_edges, outputs);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "sparse_conv2d", [&] {
    conv2d_forward(y.mutable_data_ptr<scalar_t>(), xc.const_data_ptr<scalar_t>(),
            wc.const_data_ptr<scalar_t>(), bias ? bc.const_data_ptr<scalar_t>() : nullptr, relu, graph, it.layout, it.batch, it.inputs, outputs,
            at::get_num_threads());
  });
  return y;
}

std::tuple<Tensor, Tensor> sparse_conv2d_backward(const Tensor& grad, const Tensor& x,
                                           const Tensor& weight, const Tensor& edges,
                                           at::IntArrayRef stride, at::IntArrayRef margins,
                                           at::IntArrayRef dilation, bool need_x,
                                           bool need_weight) {
  const Problem it(x, weight, stride, margins, dilation);
  const Tensor gc = grad.contiguous(), xc = x.contiguous(), wc = weight.contiguous();
  const Tensor ec = checked_edges(edges, it.num_edges, it.inputs, grad.size(1));
  Tensor x_grad = at::empty(need_x ? x.sizes() : at::IntArrayRef{0}, x.options());
  Tensor weight_grad = at::zeros(need_weight ? weight.sizes() : at::IntArrayRef{0}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "sparse_conv2d_backward", [&] {
    conv2d_backward(need_x ? x_grad.mutable_data_ptr<scalar_t>() : nullptr,
             need_weight ? weight_grad.mutable_data_ptr<scalar_t>() : nullptr,
             gc.const_data_ptr<scalar_t>(), xc.const_data_ptr<scalar_t>(),
             wc.const_data_ptr<scalar_t>(), ec.const_data_ptr<int64_t>(), it.num_edges, it.layout,
             it.batch, it.inputs, grad.size(1), at::get_num_threads());
  });
  return {x_grad, weight_grad};
}

TORCH_LIBRARY(expanders, m) {
  m.def("sparse_conv2d(Tensor x, Tensor weight, Tensor? bias, Tensor edges, int outputs, "
        "int[2] stride, int[4] margins, int[2] dilation, bool relu) -> Tensor");
  m.def("sparse_conv2d_backward(Tensor grad, Tensor x, Tensor weight, Tensor edges, int[2] stride, "
        "int[4] margins, int[2] dilation, bool need_x, bool need_weight) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(expanders, CPU, m) {
  m.impl("sparse_conv2d", sparse_conv2d);
  m.impl("sparse_conv2d_backward", sparse_conv2d_backward);
}

}  // namespace
}  // namespace expanders
